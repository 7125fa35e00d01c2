"""Trains implicit on the same data from the same starting factors and compares loss and NDCG@10."""

import sys

import numpy as np
from common import factors, finish, ndcg, ratings, starting_factors, table
from implicit.als import AlternatingLeastSquares

FACTORS, REGULARIZATION, ALPHA, ITERATIONS, SEED = 32, 5.0, 2.0, 8, 7


def loss(users, items, confidence):
    """The loss of Hu, Koren and Volinsky by its definition, over every pair."""
    scores = users.astype(np.float64) @ items.astype(np.float64).T
    observed = confidence.toarray()
    weights = np.where(observed > 0, observed, 1.0)
    preferences = (observed > 0).astype(np.float64)
    penalty = REGULARIZATION * ((users.astype(np.float64) ** 2).sum() + (items.astype(np.float64) ** 2).sum())
    return float((weights * (preferences - scores) ** 2).sum() + penalty)


warehouse = sys.argv[1]
(users, _, user_ids), (items, _, item_ids) = factors(warehouse, "peer.als")
rows = table(warehouse, "features.ratings")
train = ratings([row for row in rows if row["split"] == "train"], user_ids, item_ids)
holdout = ratings([row for row in rows if row["split"] == "holdout"], user_ids, item_ids)

confidence = train.copy().astype(np.float32)
confidence.data = 1 + ALPHA * confidence.data
model = AlternatingLeastSquares(
    factors=FACTORS, regularization=REGULARIZATION, alpha=1.0, iterations=ITERATIONS, use_cg=False,
    num_threads=1, use_gpu=False,
)
model.user_factors = np.zeros((len(user_ids), FACTORS), dtype=np.float32)
model.item_factors = starting_factors(SEED, len(item_ids), FACTORS)
model.fit(confidence, show_progress=False)

info = sorted(table(warehouse, "peer.als.training_info"), key=lambda row: row["iteration"])
assert len(info) == ITERATIONS, info
ours = info[-1]["loss"]
recomputed = loss(users, items, confidence)
theirs = loss(np.asarray(model.user_factors), np.asarray(model.item_factors), confidence)
print(f"loss: ours {ours:.4f}, by definition {recomputed:.4f}, implicit {theirs:.4f}, "
      f"relative difference {abs(ours / theirs - 1):.2e}")
assert abs(ours / recomputed - 1) < 1e-5
assert abs(ours / theirs - 1) < 1e-3

our_ndcg = ndcg(users, items, train, holdout, 10)
their_ndcg = ndcg(np.asarray(model.user_factors), np.asarray(model.item_factors), train, holdout, 10)
print(f"NDCG@10: ours {our_ndcg:.5f}, implicit {their_ndcg:.5f}, "
      f"relative difference {abs(our_ndcg / their_ndcg - 1):.2e}")
assert abs(our_ndcg / their_ndcg - 1) < 0.01

finish()
