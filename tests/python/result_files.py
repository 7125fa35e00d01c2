"""Reads what `nightshift sql -o FILE` has written, as other programs do."""

import csv
import datetime
import pathlib
import sys

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from common import finish

folder = pathlib.Path(sys.argv[1])

ROWS = [
    (1, "first", datetime.date(2026, 1, 1), 0.5, [1, 2]),
    (2, None, datetime.date(2026, 2, 1), None, None),
    (3, 'it\'s "it", or', datetime.date(2026, 3, 1), -2.25, [3]),
]
NAMES = ["id", "name", "day", "weight", "list"]

parquet = pyarrow.parquet.read_table(folder / "orders.parquet")
file = pyarrow.ipc.open_file(folder / "orders.arrow").read_all()
stream = pyarrow.ipc.open_stream(folder / "orders.arrows").read_all()
for table in parquet, file, stream:
    assert table.column_names == NAMES, table.schema
    # Texts are what every program can read.
    assert table.schema.field("name").type == pyarrow.string(), table.schema
    assert table.schema.field("day").type == pyarrow.date32(), table.schema
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS, table.to_pylist()

with open(folder / "orders.csv", newline="") as lines:
    rows = list(csv.reader(lines))
assert rows[0] == NAMES
assert rows[2] == ["2", "", "2026-02-01", "", ""], rows
assert rows[3] == ["3", 'it\'s "it", or', "2026-03-01", "-2.25", "[3]"], rows
finish()
