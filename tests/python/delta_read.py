"""Prints the rows of a Delta table as the deltalake package reads them, sorted by `n`."""

import json
import sys

from common import finish
from deltalake import DeltaTable

(folder,) = sys.argv[1:]
table = DeltaTable(folder)
rows = sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["n"])
described = {
    "rows": rows,
    "partitions": table.metadata().partition_columns,
    "description": table.metadata().description,
    "operations": [entry["operation"] for entry in table.history()][::-1],
}
print(json.dumps(described, default=str))
finish()
