"""How fast interactions become numbered, sorted blocks of a matrix, by user and by item: with numbers and with text for
ids, beside Arrow's dictionaries and SciPy's sparse matrices in one process."""

import json
import os
import sys

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import scipy.sparse
from common import FACTORIZATION, create_model, interactions, seconds, table, training

SIZE = sys.argv[2] if len(sys.argv) > 2 else "20M"
COLUMNS = ["user_id", "item_id", "weight"]
REPEATS = 3


def with_text(file):
    """The same interactions with texts for ids."""
    other = file.with_name(f"{file.stem}-text.parquet")
    if other.exists():
        return other
    with pyarrow.parquet.ParquetFile(file) as parts:
        schema = pyarrow.schema([("user_id", pyarrow.string()), ("item_id", pyarrow.string()), ("weight", pyarrow.float32())])
        with pyarrow.parquet.ParquetWriter(f"{other}.new", schema) as writer:
            for batch in parts.iter_batches():
                ids = [
                    pyarrow.compute.binary_join_element_wise(kind, batch[f"{kind}_id"].cast(pyarrow.string()), "-")
                    for kind in ["user", "item"]
                ]
                writer.write_batch(pyarrow.record_batch([*ids, batch["weight"]], schema=schema))
    os.rename(f"{other}.new", other)
    return other


def ours(file):
    """Seconds from the query to the blocks, the rows, users and items that were found, and the executor's memory."""
    options = {"num_factors": 2, "max_iterations": 1}
    with training(file, 2, create_model("bench.m", FACTORIZATION, **options)) as (cursor, _, memory):
        cursor.execute("SELECT metrics FROM system.model_versions")
        metrics = json.loads(cursor.fetchone()[0])
        return metrics["prepare_seconds"], metrics["rows"], metrics["users"], metrics["items"], memory


def theirs(file):
    """Numbers the ids, and sorts the matrix both ways."""

    def numbered(column):
        encoded = column.combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy(), len(encoded.dictionary)

    rows = pyarrow.parquet.read_table(file, columns=COLUMNS)
    (users, user_count), (items, item_count) = (numbered(rows[name]) for name in COLUMNS[:2])
    by_user = scipy.sparse.csr_matrix((rows["weight"].to_numpy(), (users, items)), shape=(user_count, item_count))
    by_user.tocsc()
    return by_user.nnz, user_count, item_count


def main():
    rows = []
    for ids, file in [("numbers", interactions(SIZE)), ("text", with_text(interactions(SIZE)))]:
        our_time, theirs_time = [], []
        for _ in range(REPEATS):
            time, *found, memory = ours(file)
            our_time.append(time)
            time, counted = seconds(lambda: theirs(file))
            theirs_time.append(time)
            assert tuple(map(int, found)) == tuple(map(int, counted)), (found, counted)
        count = found[0]
        for name, time, most in [("Nightshift", min(our_time), f"{memory:.0f}"), ("Arrow and SciPy", min(theirs_time), "")]:
            rows.append([ids, name, time, time / min(our_time), count / time / 1e6, most])
    table(["ids", f"{count:,.0f} interactions", "s", "ratio", "million/s", "MB"], rows)


main()
