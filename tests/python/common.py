"""What the comparisons share: tables, starting factors, matrices, ranking measures."""

import os
import pathlib
import sys

import numpy as np
import scipy.sparse
from deltalake import DeltaTable


def table(warehouse, name):
    """A table, or a model's table, as a list of rows."""
    return DeltaTable(str(pathlib.Path(warehouse, *name.split(".")))).to_pyarrow_table().to_pylist()


def finish():
    """Ends the process at once, when all comparisons are done: the threads of pyarrow sometimes abort an
    interpreter that is shutting down."""
    sys.stdout.flush()
    os._exit(0)


def starting_factors(seed, rows, factors):
    """The starting factors that Nightshift documents: SplitMix64 of seed and position."""
    gamma = np.uint64(0x9E3779B97F4A7C15)

    def mix(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        position = np.arange(1, rows * factors + 1, dtype=np.uint64)
        stream = mix(np.uint64(seed) + gamma)
        bits = mix(stream + gamma * position) >> np.uint64(40)
    uniform = bits.astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    scale = np.float32(0.1 * np.sqrt(3.0) / np.sqrt(factors))
    return (scale * uniform).reshape(rows, factors)


def factors(warehouse, model):
    """User and item factors by dense number, with biases, and the numbers of the ids."""
    users = sorted(table(warehouse, f"{model}.user_factors"), key=lambda row: row["user_index"])
    items = sorted(table(warehouse, f"{model}.item_factors"), key=lambda row: row["item_index"])
    matrix = lambda rows: np.array([row["factors"] for row in rows])
    biases = lambda rows: np.array([row["bias"] for row in rows])
    ids = lambda rows: {list(row.values())[0]: index for index, row in enumerate(rows)}
    return (matrix(users), biases(users), ids(users)), (matrix(items), biases(items), ids(items))


def ratings(rows, users, items):
    """A sparse matrix of ratings whose user and item are both known."""
    rows = [row for row in rows if row["user_id"] in users and row["movie_id"] in items]
    return scipy.sparse.csr_matrix(
        (
            [row["rating"] for row in rows],
            ([users[row["user_id"]] for row in rows], [items[row["movie_id"]] for row in rows]),
        ),
        shape=(len(users), len(items)),
    )


def ndcg(user_factors, item_factors, train, holdout, k):
    """Mean NDCG@k of the best unseen items, over users who have held-out items."""
    scores = user_factors.astype(np.float64) @ item_factors.astype(np.float64).T
    scores[train.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    relevant = holdout.toarray() > 0
    gains = 1 / np.log2(np.arange(2, k + 2))
    counts = relevant.sum(axis=1)
    users = np.nonzero(counts)[0]
    hits = np.take_along_axis(relevant, best, axis=1)
    ideal = np.cumsum(gains)[np.minimum(counts[users], k) - 1]
    return float(((hits[users] * gains).sum(axis=1) / ideal).mean())
