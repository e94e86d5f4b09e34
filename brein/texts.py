"""Texts from outside, made fit to be embedded, sent and printed."""

from __future__ import annotations

import re
import reprlib
from itertools import islice
from typing import Any

from brein.errors import DataError

MAX_QUESTION = 10_000  # characters


class _Short(reprlib.Repr):
    """Of a large object, shows a few of the first keys; `reprlib` would sort all of them before."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
_SHORT = _Short()
_SHORT.maxlevel = 2
_SHORT.maxstring = 200  # characters


def readable(text: str) -> str:
    """`text` as valid Unicode without control characters: surrogate pairs joined, lone ones U+FFFD."""
    if text.isprintable():  # then it is all that, as most are
        return text
    valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROL.sub(" ", valid.replace("\r\n", "\n"))


def shown(value: object) -> str:
    """A value as an error message shows it: cut short where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__}"


def beginning(name: str, text: Any, characters: int) -> str:
    """The first `characters` of a text, made `readable`; `name` is what errors call it.

    Raises:
        DataError: it is no text, or that part of it is blank.
    """
    if not isinstance(text, str):
        raise DataError(f"the {name} is a {type(text).__name__}; give a text")
    kept = readable(text[:characters]).strip()
    if not kept:
        raise DataError(f"the {name} is empty; give a text")
    return kept


def check_question(question: Any) -> str:
    """A question made `readable`.

    Raises:
        DataError: it is no text, blank, or longer than `MAX_QUESTION` characters.
    """
    text = beginning("question", question, MAX_QUESTION)
    if len(question) > MAX_QUESTION:
        raise DataError(
            f"the question has {len(question):,} characters, at most {MAX_QUESTION:,}; "
            "ask a shorter one, and ingest long texts as documents"
        )
    return text
