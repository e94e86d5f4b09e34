"""Brein: a semantic-memory engine."""

from brein.config import EngineConfig
from brein.engine import Engine
from brein.records import Document, Hit, Query, Retrieval

__version__ = "0.1.0"
__all__ = ["Document", "Engine", "EngineConfig", "Hit", "Query", "Retrieval", "__version__"]
