"""Retrieval: what turns a query into ranked documents, beyond the nearest vectors."""
