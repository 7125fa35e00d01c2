"""What an iteration takes by a cost model (docs/scaling.md): compute, exchange of the state, requests to the object
store, scheduler. First beside what was measured, on the machine that its constants are from; then with many executors,
for machines that nobody here has."""

import math

from common import exact_flops, table

BLOCK_ENTRIES = 1 << 20

# Fitted to bench/run scaling on the AMD EPYC (Zen 4) of bench/README.md.
HERE = {
    "flops of a core": 68e9,
    "edges of a core": 450e6,
    "seconds of a superstep": 6e-3,
    "seconds of a task": 1e-3,
    "seconds of a barrier": 1.8e-3,
    "cores": 1,
    "bytes a second": 1e9,
    "seconds of a request": 0.1e-3,
    "requests at once": 16,
}
# The same program on rented machines: what is assumed of them takes the place of what was measured here.
THERE = {**HERE, "cores": 16, "bytes a second": 1.25e9, "seconds of a request": 30e-3}


def seconds(of, executors, core_seconds, state, parts, supersteps):
    """Compute, exchange, requests and scheduler of an iteration. `state` are the bytes of a state, of which each executor
    writes its share and reads the rest; `parts` the objects that these are in."""
    return [
        core_seconds / executors / of["cores"],
        state / of["bytes a second"],
        parts * of["seconds of a request"] / of["requests at once"],
        supersteps * (of["seconds of a superstep"] + executors * of["seconds of a task"]),
    ]


def als(of, executors, interactions, users, items, factors):
    flops = exact_flops(interactions, users + items, factors)
    state = 4 * factors * (users + items)
    parts = 2 * math.ceil(interactions / BLOCK_ENTRIES)
    return seconds(of, executors, flops / of["flops of a core"], state, parts, 2)


def pagerank(of, executors, edges, nodes):
    parts = math.ceil(edges / BLOCK_ENTRIES)
    return seconds(of, executors, edges / of["edges of a core"], 8 * nodes, parts, 1)


def on_one(parts):
    """One executor that holds all of the data, where iterations are not a job each: no state is exchanged."""
    return [parts[0], 0.0, 0.0, 0.0]


def together(of, parts, supersteps):
    """Several executors whose steps are not a job each: they wait for each other."""
    return [*parts[:3], supersteps * of["seconds of a barrier"]]


COLUMNS = ["compute", "exchange", "requests", "scheduler", "s an iteration"]


def beside_what_was_measured():
    two_cores = {**HERE, "cores": 2}
    # Of the ids of R-MAT 22, those that have an edge.
    edges, nodes = 16 << 22, 2_396_423
    measured = [
        ("ALS, 20M, 64 factors, 1 x 1", on_one(als(HERE, 1, 17_964_562, 138_000, 27_000, 64)), 2.41),
        ("ALS, 20M, 64 factors, 2 x 1", together(HERE, als(HERE, 2, 17_964_562, 138_000, 27_000, 64), 2), 1.30),
        ("ALS, 20M, 64 factors, 1 x 2", on_one(als(two_cores, 1, 17_964_562, 138_000, 27_000, 64)), 1.22),
        ("ALS, 2M, 64 factors, 1 x 2", on_one(als(two_cores, 1, 1_870_494, 13_800, 27_000, 64)), 0.154),
        ("ALS, 200M, 64 factors, 1 x 2", als(two_cores, 1, 177_757_346, 1_380_000, 27_000, 64), 13.0),
        ("PageRank, R-MAT 22, 1 x 1", on_one(pagerank(HERE, 1, edges, nodes)), 0.143),
        ("PageRank, R-MAT 22, 2 x 1", together(HERE, pagerank(HERE, 2, edges, nodes), 1), 0.0957),
        ("PageRank, R-MAT 22, 1 x 2", on_one(pagerank(two_cores, 1, edges, nodes)), 0.0746),
    ]
    rows = [[name, *parts, sum(parts), found, sum(parts) / found] for name, parts, found in measured]
    table(["executors x cores", *COLUMNS, "measured", "ratio"], rows)


def with_many():
    jobs = {
        "ALS: 10 G interactions, 100 M users, 1 M items, 64 factors": lambda n: als(THERE, n, 10e9, 100e6, 1e6, 64),
        "PageRank: 100 G edges, 2 G nodes": lambda n: pagerank(THERE, n, 100e9, 2e9),
    }
    for title, job in jobs.items():
        first = sum(job(1))
        rows = [[n, *job(n), sum(job(n)), first / sum(job(n))] for n in (1, 3, 10, 30, 100, 300, 1000)]
        print(f"\n{title}\n")
        table(["executors", *COLUMNS, "speedup"], rows)


beside_what_was_measured()
with_many()
