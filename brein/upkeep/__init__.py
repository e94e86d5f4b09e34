"""What is derived from the documents, kept in step with them: the index, and the mesh of associations."""

from brein.upkeep.index import KeptIndex
from brein.upkeep.mesh import KeptMesh

__all__ = ["KeptIndex", "KeptMesh"]
