"""Matrix factorization of 18 million interactions, with implicit feedback: Nightshift through a cluster of one executor
with two cores, by each of its solvers, beside implicit, irspack and Spark with two threads. Seconds of the fastest
iteration, and the objective after the same number of iterations, computed from the factors in the same way for all; and
for Nightshift's solvers how long they take to the objective that the exact one has then."""

import os
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import implicit.cpu.als
import numpy
import scipy.sparse
from common import (
    FACTORIZATION,
    create_model,
    exact_flops,
    interactions,
    iteration_seconds,
    seconds,
    spark_session,
    table,
    training,
)
from irspack import IALSRecommender
from threadpoolctl import ThreadpoolController

FACTORS = [int(word) for word in sys.argv[2].split(",")] if len(sys.argv) > 2 else [64]
SIZE = sys.argv[3] if len(sys.argv) > 3 else "20M"
# Spark takes longer than all the others together, and is measured once.
PEERS = sys.argv[4].split(",") if len(sys.argv) > 4 else ["implicit", "irspack", "spark"]
ITERATIONS = 4
MOST_ITERATIONS = 12
# How often each is measured, all taking turns: a machine is faster at one time than at another.
TURNS = 2
# Who takes longer than this for an iteration is measured once.
SLOW = 60
# Of so many factors, what an iteration of Spark takes is far more than its preparation.
MANY = 256
ALPHA, PENALTY = 10.0, 1.0
THREADS = 2


def matrix(file):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(file)
    users, items, weights = (rows[name].to_numpy() for name in ["user_id", "item_id", "weight"])
    _, users = numpy.unique(users, return_inverse=True)
    _, items = numpy.unique(items, return_inverse=True)
    return scipy.sparse.csr_matrix((weights.astype(numpy.float32), (users, items)))


def objective(weights, users, items):
    """The loss that all of them minimise, over every pair of user and item, with the penalty."""
    users, items = users.astype(numpy.float64), items.astype(numpy.float64)
    total = ((users.T @ users) * (items.T @ items)).sum()
    for first in range(0, weights.shape[0], 4096):
        part = weights[first : first + 4096].tocoo()
        scores = numpy.einsum("ij,ij->i", users[first + part.row], items[part.col])
        confidence = 1 + ALPHA * part.data
        total += (confidence * (1 - scores) ** 2 - scores**2).sum()
    return total + PENALTY * ((users**2).sum() + (items**2).sum())


def ours(file, weights, factors, solver, goal=None):
    """Seconds of the fastest iteration, the objective, the executor's memory, and the losses and the times that they
    were reached. Without a goal, the objective is that after as many iterations as the others do."""
    iterations = MOST_ITERATIONS if goal else ITERATIONS
    options = {"num_factors": factors, "wals_alpha": ALPHA, "l2_reg": PENALTY, "solver": solver}
    statement = create_model("bench.als", FACTORIZATION, max_iterations=iterations, **options)
    with training(file, THREADS, statement) as (cursor, total, memory):
        times = iteration_seconds(cursor, "bench.als", iterations)
        cursor.execute("SELECT loss FROM bench.als.training_info ORDER BY iteration")
        losses = [row[0] for row in cursor.fetchall()]

        def side(name, key):
            cursor.execute(f"SELECT factors FROM bench.als.{name} ORDER BY {key}")
            column = cursor.fetch_arrow_table()["factors"].combine_chunks()
            return column.flatten().to_numpy().reshape(-1, factors)

        found = objective(weights, side("user_factors", "user_id"), side("item_factors", "item_id"))
        # What it reports is what it has come to.
        assert abs(found - losses[-1]) < 1e-4 * found, (found, losses)
        print(f"nightshift, {solver}: {total:.1f} s from the query to the published tables", flush=True)
        reached = numpy.cumsum(times)
        goal = goal or losses[-1]
        to_goal = next((at for at, loss in zip(reached, losses) if loss <= goal), "not reached")
        return min(times), losses[ITERATIONS - 1], memory, to_goal


def of_implicit(weights, factors, gradient):
    model = implicit.cpu.als.AlternatingLeastSquares(
        factors=factors, regularization=PENALTY, alpha=1.0, use_native=True, use_cg=gradient,
        iterations=ITERATIONS, num_threads=THREADS, random_state=42,
    )
    times = []
    started = time.perf_counter()

    def note(*_):
        nonlocal started
        times.append(time.perf_counter() - started)
        started = time.perf_counter()

    confidence = weights.copy()
    confidence.data = 1 + ALPHA * confidence.data
    started = time.perf_counter()
    model.fit(confidence, show_progress=False, callback=note)
    return min(times), objective(weights, model.user_factors, model.item_factors)


def of_irspack(weights, factors, solver):
    confidence = weights.copy()
    confidence.data = ALPHA * confidence.data
    model = IALSRecommender(
        confidence, n_components=factors, alpha0=1.0, reg=PENALTY, nu=0.0, loss_type="ORIGINAL",
        solver_type=solver, n_threads=THREADS, train_epochs=ITERATIONS,
    )
    model.start_learning()
    times = [seconds(model.trainer_as_ials.run_epoch)[0] for _ in range(ITERATIONS)]
    core = model.trainer_as_ials.core_trainer
    return min(times), objective(weights, core.user, core.item)


def of_spark(file, factors):
    """Spark scales the penalty by the number of a row's interactions, so that its objective is another one."""
    from pyspark.ml.recommendation import ALS

    spark = spark_session()
    rows = spark.read.parquet(str(file)).select("user_id", "item_id", "weight").cache()
    rows.count()

    def train(iterations):
        options = {"userCol": "user_id", "itemCol": "item_id", "ratingCol": "weight"}
        als = ALS(
            rank=factors, maxIter=iterations, regParam=PENALTY / 100, implicitPrefs=True, alpha=ALPHA,
            numUserBlocks=2, numItemBlocks=2, seed=1, **options,
        )
        model = als.fit(rows)
        # Nothing is computed before it is asked for.
        return model.userFactors.count() + model.itemFactors.count()

    # What preparation takes is in both; with many factors, it is in the one iteration.
    more, less = (1, 0) if factors >= MANY else (3, 1)
    taken = seconds(lambda: train(more))[0] - (seconds(lambda: train(less))[0] if less else 0)
    spark.stop()
    return taken / (more - less)


def sgemm():
    """Operations a second of the machine's own matrix product, with both cores."""
    a = numpy.random.default_rng(1).random((4096, 4096), dtype=numpy.float32)
    with ThreadpoolController().limit(limits=THREADS):
        best = min(seconds(lambda: a @ a)[0] for _ in range(3))
    return 2 * 4096**3 / best


def main():
    file = interactions(SIZE)
    weights = matrix(file)
    print(f"{weights.shape[0]} x {weights.shape[1]}, {weights.nnz} interactions", flush=True)
    for factors in FACTORS:
        exact = "nightshift, exact"
        contenders = {
            exact: lambda: ours(file, weights, factors, "exact"),
            "implicit, exact": lambda: of_implicit(weights, factors, False),
            "implicit, CG": lambda: of_implicit(weights, factors, True),
            "irspack, exact": lambda: of_irspack(weights, factors, "CHOLESKY"),
            "irspack, CG": lambda: of_irspack(weights, factors, "CG"),
            "irspack, iALS++": lambda: of_irspack(weights, factors, "IALSPP"),
        }
        wanted = {name: run for name, run in contenders.items() if name.split(",")[0] in ["nightshift", *PEERS]}
        measured, limit = {}, 0
        for _ in range(TURNS):
            for name, run in wanted.items():
                if measured.get(name, [0])[0] > SLOW:
                    continue
                limit = max(limit, sgemm())
                now = run()
                print(f"{name}: {now[0]:.3g} s", flush=True)
                measured[name] = min(measured.get(name, now), now, key=lambda one: one[0])
        if "spark" in PEERS:
            measured["spark"] = (of_spark(file, factors), None)
            print(f"spark: {measured['spark'][0]:.3g} s", flush=True)
        taken, found, memory, reached = measured.pop(exact)
        speed = exact_flops(weights.nnz, sum(weights.shape), factors) / taken
        rows = [[exact, taken, 1.0, found, f"{speed / limit:.0%}", reached]]
        for solver in ["subspace", "conjugate_gradient"]:
            other, other_found, _, to_goal = ours(file, weights, factors, solver, found)
            rows.append([f"nightshift, {solver}", other, other / taken, other_found, "", to_goal])
        for name, (peer, objective_of_peer) in measured.items():
            rows.append([name, peer, peer / taken, objective_of_peer, "", ""])
        header = [f"{factors} factors", "s an iteration", "of ours, exact", "objective", "of sgemm", "s to the objective"]
        table(header, [[*row[:3], f"{row[3]:.6g}" if row[3] else "", *row[4:]] for row in rows])
        print(f"sgemm: {limit / 1e9:.0f} GFLOP/s; the executor's memory at its largest: {memory:.0f} MB", flush=True)


main()
