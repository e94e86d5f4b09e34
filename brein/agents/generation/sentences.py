"""Texts into sentences, by punctuation."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

LONGEST = 400  # characters of a piece; what runs on without an end is cut between words

_PARAGRAPH = re.compile(r"\n[ \t]*(?:\n|(?=[-*•] |\d{1,3}[.)] ))")  # or an item of a list
# After . ! ? and what closes with it, where something begins that is no small letter; after 。！？ anywhere.
# The group is what lies between two sentences.
_END = re.compile(
    r"""[.!?…]["'\u201d\u2019)\]]?(\s+)(?=["'\u201c\u2018(\[]?[^\Wa-z_])"""
    r"""|[\u3002\uff01\uff1f]()"""
)
# A full stop after one of these ends no sentence, nor after an initial, J. Doe, or the number of an item.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:[^\W\d_]|e\.g|i\.e|cf|vs|al|approx|figs?|eqs?|refs?|no|vol|dr|mrs?|ms|prof|st)\.$"
    r"|^\d{1,3}\.$",
    re.IGNORECASE,
)


def split(text: str) -> Iterator[str]:
    """The sentences of `text` in order, their white space single spaces, none longer than `LONGEST`."""
    for paragraph in _PARAGRAPH.split(text):
        sentence = ""
        for piece in _pieces(paragraph):
            sentence = f"{sentence} {piece}" if sentence else piece
            if _ABBREVIATION.search(sentence[-10:]):
                continue
            yield from _wrapped(sentence)
            sentence = ""
        yield from _wrapped(sentence)


def _pieces(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(paragraph):
        yield paragraph[start : end.start(end.lastindex or 1)]
        start = end.end()
    yield paragraph[start:]


def _wrapped(sentence: str) -> list[str]:
    words = " ".join(sentence.split())
    if len(words) > LONGEST:
        return textwrap.wrap(words, LONGEST, break_on_hyphens=False)
    return [words] if words else []
