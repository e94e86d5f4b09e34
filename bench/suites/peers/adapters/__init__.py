"""The peers that the lab knows: one short file each, one table (`PEERS`).

Their libraries are loaded where they are used.
"""

from __future__ import annotations

from pathlib import Path

from bench.errors import UsageError
from bench.suites.peers.adapters.brein_engine import BreinEngine
from bench.suites.peers.adapters.brein_index import BreinIndex
from bench.suites.peers.adapters.chromadb import Chroma
from bench.suites.peers.adapters.faiss import Faiss
from bench.suites.peers.adapters.hnswlib import Hnswlib
from bench.suites.peers.adapters.http import Http
from bench.suites.peers.adapters.llama_index import LlamaIndex
from bench.suites.peers.adapters.pgvector import Pgvector
from bench.suites.peers.adapters.scann import Scann
from bench.suites.peers.adapters.txtai import Txtai
from bench.suites.peers.adapters.usearch import Usearch
from bench.suites.peers.base import Peer, from_file

PEERS: dict[str, type[Peer]] = {
    # vectors in, rows out
    "brein_index": BreinIndex,
    "faiss": Faiss,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "scann": Scann,
    "pgvector": Pgvector,
    "http": Http,
    # text in, rows out
    "brein_engine": BreinEngine,
    "txtai": Txtai,
    "chromadb": Chroma,
    "llama_index": LlamaIndex,
}


def adapter(name: str) -> type[Peer]:
    """The adapter of this name, or the one in a file, "folder/mine.py".

    Raises:
        UsageError: there is none.
    """
    if name in PEERS:
        return PEERS[name]
    if not name.endswith(".py"):
        raise UsageError(
            f"{name!r} is unknown; known adapters: {', '.join(PEERS)}, or the path of a .py file"
        )
    return from_file(Path(name))
