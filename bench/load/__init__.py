"""Load: when requests arrive, what became of each, and how much of it a service carries."""
