"""Load: requests on a schedule or from users, what became of each, and how much a service carries."""
