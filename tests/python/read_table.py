"""Reads a table with the deltalake package and compares it with rows that Nightshift returned."""

import json
import sys

from common import finish
from deltalake import DeltaTable

table, rows = sys.argv[1:]
expected = json.load(open(rows, encoding="utf-8"))
names = ["user_id", "rank", "movie_id", "title", "score"]
frame = DeltaTable(table).to_pyarrow_table(columns=names).to_pylist()
actual = sorted(frame, key=lambda row: (row["user_id"], row["rank"]))
assert len(actual) == len(expected), (len(actual), len(expected))
for left, right in zip(actual, expected):
    assert abs(left.pop("score") - right.pop("score")) < 1e-6, (left, right)
    assert left == right, (left, right)
print(len(actual), "rows are the same")
finish()
