"""Brein: a semantic-memory engine."""

from brein.agents import Coordinator, Response
from brein.config import EngineConfig
from brein.engine import Engine
from brein.records import Answer, Document, Emotion, Hit, Query, Retrieval

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Coordinator",
    "Document",
    "Emotion",
    "Engine",
    "EngineConfig",
    "Hit",
    "Query",
    "Response",
    "Retrieval",
    "__version__",
]
