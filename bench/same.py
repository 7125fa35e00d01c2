"""Whether models are the same to the last bit on one executor with two cores, on two executors, on three of which two are
killed in the middle, and with little memory: factors and ranks of "2M" interactions and of an R-MAT graph, as digests.
And how much memory the executors took, and how often they read a block again."""

import contextlib
import hashlib
import json
import sys
import threading

from common import FACTORIZATION, PAGERANK, SIZES, Memory, cluster, create_model, interactions, rmat, seconds, table

SIZE = sys.argv[2] if len(sys.argv) > 2 else "2M"
SCALE = int(sys.argv[3]) if len(sys.argv) > 3 else 20
TRAININGS = [
    create_model("bench.als", FACTORIZATION, "SELECT * FROM default.interactions", num_factors=64, max_iterations=8),
    create_model("bench.rank", PAGERANK, "SELECT * FROM default.edges", tolerance=1e-15, max_iterations=100),
]
# A quarter of what the users' factors take, for states and blocks; and little for everything else.
QUARTER = max(1, SIZES[SIZE][0] * 64 * 4 // 4 >> 20)
SMALL = 512
SMALL_OPTIONS = ["--memory", str(SMALL), "--resident-memory", str(QUARTER)]
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
        with contextlib.ExitStack() as watched:
            memories = [watched.enter_context(Memory(process)) for process in running.executors]
            for statement in TRAININGS:
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
        cursor.execute("SELECT metrics FROM system.model_versions")
        metrics = [json.loads(row[0]) for row in cursor.fetchall()]
        kept, read = (sum(each[name] for each in metrics) for name in ("blocks_kept", "blocks_read"))
        return [*taken, max(memory.most for memory in memories), f"{kept:.0f} of {kept + read:.0f}", *digests]


def main():
    runs = {
        "one executor with two cores": lambda: models([2]),
        "two with one": lambda: models([1, 1]),
        "three with one, two of them killed": lambda: models([1, 1, 1], kill=True),
        f"one with two, {SMALL} MB": lambda: models([2], SMALL_OPTIONS),
    }
    rows = [[name, *run()] for name, run in runs.items()]
    table(["", "s, ALS", "s, PageRank", "MB at most", "blocks in memory", "user factors", "item factors", "ranks"], rows)
    assert len({tuple(row[5:]) for row in rows}) == 1, "they differ"


main()
