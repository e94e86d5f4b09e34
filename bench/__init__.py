"""The performance lab: experiments on an engine, and what they prove."""
