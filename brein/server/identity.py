"""The id of a request: the client's own where it is well formed, else made."""

from __future__ import annotations

import re
from random import getrandbits

_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")


def new_id() -> str:
    """An id that nobody has, by chance: it guards nothing."""
    return f"{getrandbits(64):016x}"


def id_from(header: bytes | None) -> str:
    """The id that `X-Request-ID` gives, or a new one."""
    return header.decode() if header and _WELL_FORMED.fullmatch(header) else new_id()
