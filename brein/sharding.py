"""Which shard a key belongs to: the same in every process, on every machine, for ever."""

from __future__ import annotations

from hashlib import blake2b


def shard_of(key: str, shards: int) -> int:
    """The shard of `key` among `shards`, 0 to shards − 1, by jump consistent hashing.

    Growing from n shards to n + 1 moves one key in n + 1, and only to the new shard.
    Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014.
    """
    state = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
    shard, jump = -1, 0
    while jump < shards:
        shard = jump
        state = (state * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        jump = int((shard + 1) * ((1 << 31) / ((state >> 33) + 1)))
    return shard
