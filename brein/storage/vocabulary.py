"""The words of a file's documents: their stems, and how many documents have each."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache

_KEPT = 10_000  # words whose counts are kept; more than any call asks for
_LONGEST = 64  # characters of a word that is kept: a text without a space is one word
_PROBE = (
    # The stems of words, made as those of the documents are; and how many documents have each.
    "CREATE VIRTUAL TABLE temp.probe USING fts5 (text, tokenize = 'porter unicode61')",
    "CREATE VIRTUAL TABLE temp.probed USING fts5vocab (temp, probe, instance)",
    "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab (main, words, row)",
)
_STEMS = "SELECT doc, term FROM temp.probed ORDER BY doc"
# Reads the whole list of the documents that have a word.
_COUNTS = """SELECT probed.doc, coalesce(vocabulary.doc, 0)
FROM temp.probed LEFT JOIN temp.vocabulary ON vocabulary.term = probed.term
ORDER BY probed.doc"""


class Vocabulary:
    """Looks words up in the FTS5 table `words`; what it has counted it keeps until the documents change.

    Words in which FTS5 sees none are left out. Not safe to use from several threads at once.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._counts: LRUCache[str, int] = LRUCache(_KEPT)
        self._version = ""  # of the documents that were counted
        for statement in _PROBE:
            connection.execute(statement)

    def counts(self, words: Sequence[str], version: str) -> dict[str, int]:
        """How many documents have each word, in any form that has the same stem; they have `version` now."""
        if self._version != version:
            self._counts.clear()
            self._version = version
        known = {word: self._counts[word] for word in words if word in self._counts}
        new = self._look_up(_COUNTS, [word for word in words if word not in known])
        self._counts.update({word: count for word, count in new.items() if len(word) <= _LONGEST})
        known |= new
        return {word: known[word] for word in words if word in known}

    def stems(self, words: Sequence[str]) -> dict[str, str]:
        """The stem of each word."""
        return self._look_up(_STEMS, words)

    def _look_up(self, statement: str, words: Sequence[str]) -> dict[str, Any]:
        if not words:
            return {}
        self._connection.execute("BEGIN")
        try:
            probe = "INSERT INTO temp.probe (rowid, text) VALUES (?, ?)"
            self._connection.executemany(probe, list(enumerate(words)))
            return {words[row]: value for row, value in self._connection.execute(statement)}
        finally:
            if self._connection.in_transaction:  # SQLite ends some by itself when they fail
                self._connection.execute("ROLLBACK")
