"""Whether models are the same to the last bit on one executor with two cores, on two executors, on three of which one is
killed in the middle, and with little memory: factors and ranks of "2M" interactions and of an R-MAT graph, as digests."""

import hashlib
import sys
import threading

from common import cluster, interactions, rmat, seconds, table

SIZE = sys.argv[2] if len(sys.argv) > 2 else "2M"
SCALE = int(sys.argv[3]) if len(sys.argv) > 3 else 18
ALS = (
    "CREATE OR REPLACE MODEL bench.als OPTIONS (model_type = 'matrix_factorization', feedback_type = 'implicit',"
    " user_col = 'user_id', item_col = 'item_id', rating_col = 'weight', early_stop = false, num_factors = 64,"
    " wals_alpha = 10, l2_reg = 1, max_iterations = 8) AS SELECT user_id, item_id, weight FROM default.interactions"
)
PAGERANK = (
    "CREATE OR REPLACE MODEL bench.rank OPTIONS (model_type = 'pagerank', source_col = 'source',"
    " target_col = 'target', tolerance = 1e-15, max_iterations = 100) AS SELECT source, target FROM default.edges"
)
RESULTS = [
    "SELECT user_id, factors FROM bench.als.user_factors ORDER BY user_id",
    "SELECT item_id, factors FROM bench.als.item_factors ORDER BY item_id",
    "SELECT node, rank FROM bench.rank.ranks ORDER BY node",
]


def digest(arrow):
    """Of every bit of every number, whatever pieces the rows came in."""
    found = hashlib.blake2b(digest_size=8)
    for column in arrow.combine_chunks().columns:
        for chunk in column.chunks:
            values = chunk.flatten() if hasattr(chunk, "flatten") and chunk.type.num_fields else chunk
            found.update(values.to_numpy().tobytes())
    return found.hexdigest()


def models(executors, options=(), kill=False):
    files = {"interactions": interactions(SIZE), "edges": rmat(SCALE)}
    folder = next(iter(files.values())).parent
    with cluster(executors, locations=[folder], options=options) as running, running.connect() as connection:
        cursor = connection.cursor()
        for name, file in files.items():
            cursor.execute(f"CREATE EXTERNAL TABLE default.{name} STORED AS PARQUET LOCATION '{file}'")
        taken, killed = [], []
        for statement in (ALS, PAGERANK):
            # One of them in the middle of each training, as long as there are two.
            after = 1.5 if kill and len(running.executors) > 1 else None
            dies = threading.Timer(after or 0, lambda: killed.append(running.executors.pop().kill()))
            if after:
                dies.start()
            taken.append(seconds(lambda: cursor.execute(statement))[0])
            if after:
                assert not dies.is_alive(), "the training was over before an executor was killed"
        assert not kill or len(killed) == 2
        digests = []
        for query in RESULTS:
            cursor.execute(query)
            digests.append(digest(cursor.fetch_arrow_table()))
        return [*taken, *digests]


def main():
    runs = {
        "one executor with two cores": lambda: models([2]),
        "two with one": lambda: models([1, 1]),
        "three with one, two of them killed": lambda: models([1, 1, 1], kill=True),
        "one with two, --resident-memory 4": lambda: models([2], options=["--resident-memory", "4"]),
    }
    rows = [[name, *run()] for name, run in runs.items()]
    table(["", "s, ALS", "s, PageRank", "user factors", "item factors", "ranks"], rows)
    assert len({tuple(row[3:]) for row in rows}) == 1, "they differ"


main()
