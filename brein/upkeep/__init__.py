"""What is derived from the documents, kept in step with them: the index, and the mesh of associations."""

from brein.upkeep.index import BATCH, KeptIndex, fitting, sample
from brein.upkeep.mesh import KeptMesh

__all__ = ["BATCH", "KeptIndex", "KeptMesh", "fitting", "sample"]
