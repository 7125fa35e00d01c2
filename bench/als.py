"""Matrix factorization of 18 million interactions, with implicit feedback and exact solves: Nightshift through a
cluster of one executor with two cores, beside implicit and irspack with two threads. Seconds an iteration, and the
objective after the same number of iterations, computed from the factors in the same way for all."""

import os
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import implicit.cpu.als
import numpy
import scipy.sparse
from common import interactions, iteration_seconds, seconds, table, training
from irspack import IALSRecommender
from threadpoolctl import ThreadpoolController

FACTORS = [int(word) for word in sys.argv[2].split(",")] if len(sys.argv) > 2 else [64]
SIZE = sys.argv[3] if len(sys.argv) > 3 else "20M"
ITERATIONS = 4
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


def ours(file, weights, factors):
    statement = (
        "CREATE MODEL bench.als OPTIONS (model_type = 'matrix_factorization',"
        " feedback_type = 'implicit', user_col = 'user_id', item_col = 'item_id',"
        f" rating_col = 'weight', num_factors = {factors}, wals_alpha = {ALPHA},"
        f" l2_reg = {PENALTY}, max_iterations = {ITERATIONS}, early_stop = false)"
        " AS SELECT user_id, item_id, weight FROM default.given"
    )
    with training(file, THREADS, statement) as (cursor, total, memory):
        iterations = iteration_seconds(cursor, "bench.als", ITERATIONS)

        def side(name, key):
            cursor.execute(f"SELECT factors FROM bench.als.{name} ORDER BY {key}")
            column = cursor.fetch_arrow_table()["factors"].combine_chunks()
            return column.flatten().to_numpy().reshape(-1, factors)

        found = objective(weights, side("user_factors", "user_id"), side("item_factors", "item_id"))
        print(f"nightshift: {total:.1f} s from the query to the published tables", flush=True)
        return min(iterations), found, memory


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


def arithmetic(weights, factors):
    """Floating-point operations of the exact solves of one iteration: the products, Cholesky, the solves."""
    rows = sum(weights.shape)
    return 2 * weights.nnz * factors * (factors + 1) + rows * (factors**3 / 3 + 2 * factors**2)


def sgemm():
    """Operations a second of the machine's own matrix product, with both cores."""
    a = numpy.random.default_rng(1).random((4096, 4096), dtype=numpy.float32)
    with ThreadpoolController().limit(limits=THREADS):
        best = min(seconds(lambda: a @ a)[0] for _ in range(3))
    return 2 * 4096**3 / best


def main():
    file = interactions(SIZE)
    weights = matrix(file)
    limit = sgemm()
    print(f"{weights.shape[0]} x {weights.shape[1]}, {weights.nnz} interactions; sgemm {limit / 1e9:.0f} GFLOP/s")
    for factors in FACTORS:
        taken, found, memory = ours(file, weights, factors)
        speed = arithmetic(weights, factors) / taken
        rows = [["nightshift", taken, 1.0, found, f"{speed / limit:.0%}"]]
        peers = {
            "implicit, exact": lambda: of_implicit(weights, factors, False),
            "implicit, CG": lambda: of_implicit(weights, factors, True),
            "irspack, exact": lambda: of_irspack(weights, factors, "CHOLESKY"),
            "irspack, CG": lambda: of_irspack(weights, factors, "CG"),
        }
        for name, run in peers.items():
            peer, objective_of_peer = run()
            rows.append([name, peer, peer / taken, objective_of_peer, ""])
        header = [f"{factors} factors", "s an iteration", "nightshift is faster by", "objective", "of sgemm"]
        table(header, [[*row[:3], f"{row[3]:.6g}", row[4]] for row in rows])
        print(f"the executor's memory at its largest: {memory:.0f} MB", flush=True)


main()
