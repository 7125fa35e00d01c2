"""Solves explicit ALS densely with NumPy from the same starting factors and compares predictions."""

import sys

import numpy as np
from common import factors, finish, starting_factors, table

FACTORS, REGULARIZATION, ITERATIONS, SEED = 3, 0.3, 6, 5


def solve(ratings, fixed, bias, mean):
    """One half step: every row of `ratings` (NaN where nothing is observed) by its normal equations."""
    solved = []
    for row in ratings:
        seen = ~np.isnan(row)
        features, target = fixed[seen], row[seen] - mean
        if bias:
            target = target - features[:, -1]
            features = np.hstack([features[:, :-1], np.ones((seen.sum(), 1))])
        penalty = REGULARIZATION * np.eye(features.shape[1])
        solved.append(np.linalg.solve(features.T @ features + penalty, features.T @ target))
    return np.array(solved)


def dense(ratings, bias):
    """All predictions after the iterations."""
    mean = np.nanmean(ratings) if bias else 0.0
    items = starting_factors(SEED, ratings.shape[1], FACTORS).astype(np.float64)
    if bias:
        items = np.hstack([items, np.zeros((len(items), 1))])
    for _ in range(ITERATIONS):
        users = solve(ratings, items, bias, mean)
        items = solve(ratings.T, users, bias, mean)
    product = users[:, :FACTORS] @ items[:, :FACTORS].T + mean
    return product + users[:, -1:] + items[:, -1] if bias else product


warehouse = sys.argv[1]
for name, bias in [("peer.plain", False), ("peer.biased", True)]:
    (users, user_biases, user_ids), (items, item_biases, item_ids) = factors(warehouse, name)
    ratings = np.full((len(user_ids), len(item_ids)), np.nan)
    for row in table(warehouse, "small.ratings"):
        ratings[user_ids[row["user_id"]], item_ids[row["item_id"]]] = row["rating"]
    ours = users @ items.T + user_biases[:, None] + item_biases
    difference = np.abs(ours - dense(ratings, bias)).max()
    print(f"{name}: largest difference of a prediction {difference:.2e}")
    assert difference < 1e-4

finish()
