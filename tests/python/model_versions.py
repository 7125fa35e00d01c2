"""Prints the versions of each model that a warehouse's registry lists."""

import collections
import sys

from deltalake import DeltaTable

versions = collections.defaultdict(list)
for row in DeltaTable(sys.argv[1]).to_pyarrow_table().to_pylist():
    if row["kind"] == "model":
        versions[row["name"]].append(row["version"])
for name, found in sorted(versions.items()):
    print(name, sorted(found))
