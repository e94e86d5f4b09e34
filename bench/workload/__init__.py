"""What is measured on: data sets, ground truth, query popularity.

A data set is either text (documents, queries, judgements) or vectors (base, queries, perhaps a
published ground truth). `load` reads the configuration's data set and checks it.
"""
