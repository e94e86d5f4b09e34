"""Beyond one process: index shards on several machines."""
