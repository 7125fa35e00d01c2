"""Writes a Delta table as another program would: partitioned, with what is hard to read right."""

import datetime
import decimal
import sys

import pyarrow as pa
from common import finish
from deltalake import write_deltalake

(folder,) = sys.argv[1:]
utc = datetime.timezone.utc
schema = pa.schema([
    ("day", pa.date32()),
    ("id", pa.int64()),
    ("amount", pa.decimal128(12, 3)),
    ("at", pa.timestamp("us", "UTC")),
    ("name", pa.string()),
    ("tags", pa.list_(pa.string())),
    ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
])
first, second = datetime.date(2026, 1, 1), None
rows = [
    (first, 1, decimal.Decimal("1.500"), datetime.datetime(2026, 1, 1, 3, 4, 5, 678901, utc), "a" * 50,
     ["x", None], {"city": "Rom", "zip": 1}),
    (first, 2, None, None, None, None, None),
    (second, 3, decimal.Decimal("-7.125"), datetime.datetime(1969, 12, 31, tzinfo=utc), "ß%/=", [],
     {"city": None, "zip": None}),
]
for part in (rows[:2], rows[2:]):
    table = pa.Table.from_pylist([dict(zip(schema.names, row)) for row in part], schema=schema)
    write_deltalake(folder, table, partition_by=["day"], mode="append")
extra = pa.table({"day": pa.array([first]), "id": pa.array([4], pa.int64()), "more": ["new"]})
write_deltalake(folder, extra, mode="append", schema_mode="merge")
finish()
