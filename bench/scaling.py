"""How training grows: with executors (one of one core, two of one core) and with data ("2M", "20M" and "200M"
interactions on one executor with two cores). Seconds of the fastest iteration, of the whole from query to published
tables, and the executors' largest memory beside the bytes of blocks and states. Clusters take turns, since machines
change while they are measured, and two clusters of one core that train the same at once, and know nothing of each other,
show what sharing the machine costs. And what a superstep costs that has nothing to do, and what one more executor adds
to it."""

import concurrent.futures
import statistics
import sys

from common import (
    FACTORIZATION,
    PAGERANK,
    SIZES,
    TARGET,
    create_model,
    interactions,
    iteration_seconds,
    quantile,
    rmat,
    table,
    trained,
)

EXECUTORS = sys.argv[2].split(",") if len(sys.argv) > 2 else ["als", "pagerank"]
DATA = sys.argv[3].split(",") if len(sys.argv) > 3 else ["2M", "20M", "200M"]
FACTORS = 64
# As many as take some seconds: what a job takes besides is shared by them.
ITERATIONS = {"2M": 36, "20M": 9, "200M": 4}
TURNS = 5
# The blocks of "200M" are more than executors keep if they aren't told.
ENOUGH = ["--memory", "16384", "--resident-memory", "8192"]


def als(size, executors, options=()):
    iterations = ITERATIONS[size]
    given = {"solver": "exact", "num_factors": FACTORS, "max_iterations": iterations}
    statement = create_model("bench.m", FACTORIZATION, **given)
    return measured(interactions(size), executors, statement, iterations, options)


def pagerank(scale, executors):
    statement = create_model("bench.m", PAGERANK, tolerance=1e-15, max_iterations=20)
    return measured(rmat(scale), executors, statement, 20)


def measured(file, executors, statement, iterations, options=()):
    """Whole seconds, those of the fastest iteration, and each executor's largest memory in MB."""
    with trained(file, executors, statement, options=options) as (cursor, total, memory):
        return total, min(iteration_seconds(cursor, "bench.m", iterations)), memory


def at_once(job, size):
    """The same job on two clusters of one core at once: the slower one's seconds."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        totals, iterations, memories = zip(*pool.map(lambda _: job(size, [1]), range(2)))
    return max(totals), max(iterations), sum(memories, [])


def executors():
    jobs = {
        "als": ("ALS, 20M, 64 factors", als, "20M"),
        "pagerank": ("PageRank, R-MAT 22", pagerank, 22),
    }
    rows = []
    for name in EXECUTORS:
        title, job, size = jobs[name]
        # Each with how many jobs it does.
        ways = {
            "1 x 1": (1, lambda: job(size, [1])),
            "2 x 1": (1, lambda: job(size, [1, 1])),
            "1 x 2": (1, lambda: job(size, [2])),
            "1 x 1 twice": (2, lambda: at_once(job, size)),
        }
        seen = {way: [] for way in ways}
        for _ in range(TURNS):
            for way, (_, run) in ways.items():
                seen[way].append(run())
                print(title, way, *seen[way][-1], file=sys.stderr, flush=True)
        total, iteration, _ = map(min, zip(*seen["1 x 1"]))
        for way, (jobs_done, _) in ways.items():
            totals, iterations, memories = zip(*seen[way])
            fastest = [(min(iterations), iteration), (min(totals), total)]
            figures = [figure for own, one in fastest for figure in (own, jobs_done * one / own)]
            megabytes = ", ".join(f"{max(each):.0f}" for each in zip(*memories))
            rows.append([title, way, *figures, megabytes])
    header = ["", "executors x cores", "s an iteration", "speedup", "s in all", "speedup", "MB of each"]
    table(header, rows)


def data():
    rows, first = [], None
    for size in DATA:
        total, iteration, memory = als(size, [2], ENOUGH)
        users, items = SIZES[size]
        count = rows_of(interactions(size))
        each = iteration / count * 1e9
        first = first or each
        blocks = (16 * count + 8 * (users + items)) / 1e6
        states = 4 * FACTORS * (users + items) / 1e6
        share = (memory[0] - states) / blocks
        rows.append([size, count, iteration, each, each / first, total, blocks, states, memory[0], share])
        print(rows[-1], file=sys.stderr, flush=True)
    header = ["", "interactions", "s an iteration", "ns each", "ratio", "s in all", "MB of blocks", "MB of states"]
    table([*header, "executor's MB", "less states, of blocks"], rows)


def empty():
    """A superstep that has next to nothing to do, with an executor for each half of it: half an iteration of ALS on eight
    users and as many items. Executors that keep nothing in memory do each as a job; others do not, and wait for each
    other."""
    import pyarrow
    import pyarrow.parquet

    file = TARGET / "bench-data" / "few.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = list(range(8))
    few = pyarrow.table({"user_id": ids, "item_id": ids[1:] + ids[:1], "weight": [1.0] * 8})
    pyarrow.parquet.write_table(few, file)
    given = {"solver": "conjugate_gradient", "num_factors": 2, "max_iterations": 100}
    statement = create_model("bench.m", FACTORIZATION, **given)
    rows = []
    ways = {"an empty superstep": ["--resident-memory", "0"], "one that is no job": []}
    for name, options in ways.items():
        with trained(file, [1, 1], statement, options=options) as (cursor, *_):
            times = [seconds / 2 * 1e3 for seconds in iteration_seconds(cursor, "bench.m", 100)]
        # Those that are no jobs aren't measured one by one.
        rows.append([name, quantile(times, 0.5), quantile(times, 0.99) if options else ""])
    table(["ms", "median", "99 %"], rows)


def launches():
    """An iteration with next to no arithmetic (two factors), on more and more executors of two cores in all, which wait for
    each other."""
    given = {"solver": "conjugate_gradient", "num_factors": 2, "max_iterations": 20}
    statement = create_model("bench.m", FACTORIZATION, **given)
    counts, rows = [2, 4, 8, 16], []
    for count in counts:
        with trained(interactions("20M"), [1] * count, statement) as (cursor, *_):
            # The first job, which does some of them, reads all blocks.
            rows.append([count, min(iteration_seconds(cursor, "bench.m", 20)) * 1e3])
        print(rows[-1], file=sys.stderr, flush=True)
    table(["executors of one core", "ms an iteration"], rows)
    slope = statistics.linear_regression(counts, [row[1] for row in rows]).slope
    print(f"\n{slope / 2:.2f} ms for one more executor in each of its two half steps\n")


def rows_of(file):
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(file).num_rows


empty()
launches()
executors()
data()
