"""Any engine behind HTTP. It answers three requests, each a JSON object, by a JSON object with status 200
(a redirect is not followed):

POST URL/build   {"metric": "cosine" | "inner_product" | "l2", "parameters": {…}, "total": n,
                  "start": row, "vectors": [[…], …]}          → {}
    Rows `start` and on; sent in order, block by block, until all `total` are. The answer to the last comes
    when every row can be found. A `start` of 0 begins anew.
POST URL/search  {"queries": [[…], …], "k": 10, "parameters": {…}}  → {"rows": [[7, 12, …], …]}
    For each query the numbers of the nearest rows, nearest first.
POST URL/close   {}                                           → {}
    Everything may be forgotten.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench.errors import MeasurementError, UsageError
from bench.suites.peers.base import IntArray, Parameters, VectorPeer
from brein.records import FloatArray

_BLOCK = 1000  # rows in one request
_PATIENCE = 600.0  # seconds an answer may take
_MOST = 64 * 2**20  # bytes of an answer
_OK = 200


class Http(VectorPeer):
    """Build: `url`, and whatever else the engine is to be told. Search: whatever it is to be told.

    One connection, kept open. What is timed holds the JSON and the way there and back, as for any client.
    """

    IN_PROCESS = False

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Send every row."""
        rest = dict(parameters)
        url = urlsplit(str(rest.pop("url", "")))
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if url.scheme not in kinds or url.hostname is None or url.query or url.username is not None:
            raise UsageError(
                f"url = {url.geturl()!r}: must be http://HOST or https://HOST, with a path or none, "
                "without a user or ?parameters"
            )
        self._connection = kinds[url.scheme](url.hostname, url.port, timeout=_PATIENCE)
        self._path = url.path.rstrip("/")
        self._parameters: dict[str, Any] = {}
        about = {"metric": metric, "parameters": rest, "total": len(vectors)}
        for start in range(0, len(vectors), _BLOCK):
            rows = vectors[start : start + _BLOCK].tolist()
            self._ask("build", {**about, "start": start, "vectors": rows})

    def _ask(self, verb: str, question: dict[str, Any]) -> Any:
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", f"{self._path}/{verb}", json.dumps(question).encode(), headers)
            response = self._connection.getresponse()
            body = response.read(_MOST + 1)
            if response.status != _OK:
                raise MeasurementError(f"{self._path}/{verb} answered {response.status} {response.reason}")
            if len(body) > _MOST:
                raise MeasurementError(f"{self._path}/{verb} answered more than {_MOST:,} bytes")
            return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MeasurementError(f"{self._path}/{verb} gave no answer: {error!r}") from None

    def tune(self, setting: Parameters) -> None:
        """Send these parameters with each search to come."""
        self._parameters = dict(setting)

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The rows it answers with, -1 where it gives fewer."""
        question = {"queries": queries.tolist(), "k": k, "parameters": self._parameters}
        answer = self._ask("search", question)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        try:
            for row, found in zip(rows, answer["rows"], strict=True):
                row[: len(found)] = found[:k]
        except (LookupError, TypeError, ValueError) as error:
            raise MeasurementError(
                f'{self._path}/search must answer {{"rows": [[7, 12, …], …]}}, a list for each of '
                f"{len(queries)} queries: {error!r}"
            ) from None
        return rows

    def close(self) -> None:
        """Say that everything may be forgotten."""
        self._ask("close", {})
        self._connection.close()
