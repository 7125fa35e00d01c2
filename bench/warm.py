"""Nightly training: the published version was trained on yesterday's data, and today one interaction, or edge, in a hundred
is gone and as many are new. How many iterations it takes from there and from nothing to the same loss (that of the last
iteration from nothing), or to the same bound of the error."""

import sys

from common import FACTORIZATION, PAGERANK, cluster, create_model, interactions, rmat, table

SIZE = sys.argv[2] if len(sys.argv) > 2 else "20M"
SCALE = int(sys.argv[3]) if len(sys.argv) > 3 else 20
ITERATIONS = 15


def trainings(file, kind, columns, **options):
    """The history of training on today's data from nothing, and after yesterday's from its version."""
    first, second = columns
    with cluster(executors=[2], locations=[file.parent]) as running, running.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE EXTERNAL TABLE default.given STORED AS PARQUET LOCATION '{file}'")

        def train(model, missing, **more):
            days = f"SELECT * FROM default.given WHERE ({first} * 31 + {second} * 17) % 100 <> {missing}"
            cursor.execute(create_model(model, kind, days, **options, **more))
            cursor.execute(f"SELECT * FROM {model}.training_info ORDER BY iteration")
            return cursor.fetch_arrow_table().to_pydict()

        cold = train("bench.cold", 1)
        train("bench.warm", 0)
        return cold, train("bench.warm", 1, warm_start=True)


def als():
    options = {"num_factors": 64, "max_iterations": ITERATIONS}
    cold, warm = trainings(interactions(SIZE), FACTORIZATION, ("user_id", "item_id"), **options)
    goal = cold["loss"][-1]
    reached = next((i for i, loss in zip(warm["iteration"], warm["loss"]) if loss <= goal), "not reached")
    return [f"ALS, {SIZE}, 64 factors", f"loss {goal:.6g}", len(cold["iteration"]), reached]


def pagerank():
    cold, warm = trainings(rmat(SCALE), PAGERANK, ("source", "target"), tolerance=1e-8)
    return [f"PageRank, R-MAT {SCALE}", "error 1e-8", len(cold["iteration"]), len(warm["iteration"])]


def main():
    rows = [job() for job in (als, pagerank)]
    header = ["", "until", "iterations from nothing", "from the published version", "ratio"]
    ratio = lambda row: row[2] / row[3] if isinstance(row[3], int) else ""
    table(header, [[*row, ratio(row)] for row in rows])


main()
