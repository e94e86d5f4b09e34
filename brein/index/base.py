"""The one interface of every vector index, and what the FAISS families share.

`faiss` is imported where an index is made, not at the top: reading a configuration must stay cheap,
because the lab's parent process never loads it.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from brein.errors import ConfigError, DataError, StorageError
from brein.settings import Settings

FloatArray = npt.NDArray[np.float32]
Metric = Literal["cosine", "inner_product", "l2"]
FORMAT = 1
