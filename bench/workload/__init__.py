"""What is measured on: data sets, ground truth, query popularity.

A data set is either text (documents, queries, judgements) or vectors (base, queries, perhaps a
published ground truth). `load` reads the configuration's data set and checks it.
"""

from bench.workload.dataset import Dataset, TextDataset, VectorDataset
from bench.workload.load import LOADERS, Tokenizer, load

__all__ = ["LOADERS", "Dataset", "TextDataset", "Tokenizer", "VectorDataset", "load"]
