"""PageRank, twenty iterations on an R-MAT graph, from a Parquet file of edges to ranks: Nightshift through a cluster
of one executor with two cores and of one with one, beside two plain programs (a single thread over the list of
edges, two threads over compressed rows), SciPy, SuiteSparse GraphBLAS, igraph, and GraphX with two cores. Ranks are
compared with SciPy's. The fastest of two runs."""

import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
from common import PAGERANK, TARGET, create_model, iteration_seconds, rmat, spark_session, table, training

SCALE = int(sys.argv[2]) if len(sys.argv) > 2 else 20
ONLY = sys.argv[3].split(",") if len(sys.argv) > 3 else None
PROGRAM = TARGET / "release" / "examples" / "pagerank"
ITERATIONS, DAMPING = 20, 0.85
# How often each is measured, all taking turns: a machine is faster at one time than at another, and memory that it
# hasn't had for a while takes longer to get.
TURNS = 2
# These take longer than all the others together, and are measured once.
ONCE = ["igraph", "GraphX"]


def edges(file):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(file)
    return rows["source"].to_numpy(), rows["target"].to_numpy()


def ours(file, cores):
    """Whole seconds, of the iterations, the ranks by node, and the executor's memory."""
    options = {"damping": DAMPING, "tolerance": 1e-15, "max_iterations": ITERATIONS}
    statement = create_model("bench.rank", PAGERANK, **options)
    with training(file, cores, statement) as (cursor, total, memory):
        iterations = iteration_seconds(cursor, "bench.rank", ITERATIONS)
        cursor.execute("SELECT node, rank FROM bench.rank.ranks")
        found = cursor.fetch_arrow_table()
        nodes, values = found["node"].to_numpy(), found["rank"].to_numpy()
        ranks = numpy.zeros(nodes.max() + 1)
        ranks[nodes] = values
        return total, min(iterations), ranks, f"{memory:.0f}"


def plain(way):
    def run(file):
        with tempfile.NamedTemporaryFile(dir=TARGET) as ranks:
            printed = subprocess.check_output([PROGRAM, way, file, ranks.name], text=True)
            _, iteration, total = map(float, printed.split())
            return total, iteration, numpy.fromfile(ranks.name), ""

    return run


def iterate(out_degrees, teleport, pull):
    """Ranks by `pull`, which adds up what is passed along, and the fastest iteration."""
    ranks, fastest = teleport, float("inf")
    divisors = numpy.where(out_degrees == 0, numpy.inf, out_degrees)
    for _ in range(ITERATIONS):
        started = time.perf_counter()
        dangling = ranks[out_degrees == 0].sum()
        ranks = DAMPING * pull(ranks / divisors) + (DAMPING * dangling + 1 - DAMPING) * teleport
        fastest = min(fastest, time.perf_counter() - started)
    return ranks, fastest


def prepared(file):
    source, target = edges(file)
    nodes = max(source.max(), target.max()) + 1
    out_degrees = numpy.bincount(source, minlength=nodes)
    present = (out_degrees + numpy.bincount(target, minlength=nodes)) > 0
    return source, target, nodes, out_degrees, present / present.sum()


def of_scipy(file):
    import scipy.sparse

    started = time.perf_counter()
    source, target, nodes, out_degrees, teleport = prepared(file)
    incoming = scipy.sparse.csr_matrix((numpy.ones(len(source)), (target, source)), (nodes, nodes))
    ranks, fastest = iterate(out_degrees, teleport, lambda passed: incoming @ passed)
    return time.perf_counter() - started, fastest, ranks, ""


def of_graphblas(file):
    os.environ["OMP_NUM_THREADS"] = "2"
    import graphblas

    started = time.perf_counter()
    source, target, nodes, out_degrees, teleport = prepared(file)
    add, ones = graphblas.binary.plus, numpy.ones(len(source))
    incoming = graphblas.Matrix.from_coo(target, source, ones, nrows=nodes, ncols=nodes, dup_op=add)

    def pull(passed):
        product = incoming.mxv(graphblas.Vector.from_dense(passed), graphblas.semiring.plus_times)
        return product.new().to_dense(fill_value=0.0)

    ranks, fastest = iterate(out_degrees, teleport, pull)
    return time.perf_counter() - started, fastest, ranks, ""


def of_igraph(file):
    """Its own stopping rule (PRPACK's), and its own number of iterations: only the whole can be compared."""
    import igraph

    started = time.perf_counter()
    source, target, nodes, _, teleport = prepared(file)
    graph = igraph.Graph(n=nodes, edges=numpy.column_stack([source, target]), directed=True)
    ranks = graph.personalized_pagerank(damping=DAMPING, reset=teleport.tolist())
    return time.perf_counter() - started, None, numpy.array(ranks), ""


def of_graphx(file):
    """It reads its own form of text, written before the clock starts; its ranks sum to the number of nodes."""
    import pyarrow.csv
    import pyarrow.parquet
    text = file.with_suffix(".txt")
    if not text.exists():
        options = pyarrow.csv.WriteOptions(include_header=False, delimiter=" ")
        pyarrow.csv.write_csv(pyarrow.parquet.read_table(file), f"{text}.new", options)
        os.rename(f"{text}.new", text)
    spark = spark_session()
    jvm, context = spark._jvm, spark.sparkContext._jsc.sc()
    level = jvm.org.apache.spark.storage.StorageLevel.MEMORY_ONLY()
    tag = jvm.scala.reflect.ClassTag.Int()
    started = time.perf_counter()
    graphx = jvm.org.apache.spark.graphx
    graph = graphx.GraphLoader.edgeListFile(context, str(text), False, 2, level, level)
    ranked = graphx.lib.PageRank.run(graph, ITERATIONS, 1 - DAMPING, tag, tag)
    folder = pathlib.Path(tempfile.mkdtemp(dir=TARGET)) / "ranks"
    ranked.vertices().saveAsTextFile(str(folder))
    taken = time.perf_counter() - started
    pairs = [line.strip("()\n").split(",") for part in folder.glob("part-*") for line in open(part)]
    spark.stop()
    ranks = numpy.zeros(max(int(node) for node, _ in pairs) + 1)
    for node, rank in pairs:
        ranks[int(node)] = float(rank)
    return taken, None, ranks / ranks.sum(), ""


def main():
    file = rmat(SCALE)
    _, _, exact, _ = of_scipy(file)
    runs = {
        "nightshift, two cores": lambda file: ours(file, 2),
        "nightshift, one core": lambda file: ours(file, 1),
        "one thread over the edges (COST)": plain("stream"),
        "two threads over rows (as GAP)": plain("pull"),
        "SciPy": of_scipy,
        "GraphBLAS": of_graphblas,
        "igraph": of_igraph,
        "GraphX": of_graphx,
    }
    wanted = [name for name in runs if not ONLY or name.split(",")[0].split(" ")[0] in ONLY]
    measured = {}
    for turn in range(TURNS):
        for name in wanted:
            if turn > 0 and name in ONCE:
                continue
            total, iteration, ranks, memory = runs[name](file)
            print(f"{name}: {total:.3g} s, {iteration or math.nan:.3g} s an iteration", file=sys.stderr, flush=True)
            away = abs(ranks - exact[: len(ranks)]).sum()
            now = (total, iteration, f"{away:.1e}", memory)
            measured[name] = min(measured.get(name, now), now, key=lambda one: one[0])
    rows, first = [], next(iter(measured.values()))
    for name, (total, iteration, away, memory) in measured.items():
        ratio = [total / first[0], iteration / first[1] if iteration else ""]
        milliseconds = iteration * 1e3 if iteration else ""
        rows.append([name, total, ratio[0], milliseconds, ratio[1], away, memory])
    header = ["R-MAT " + str(SCALE), "s in all", "ratio", "ms an iteration", "ratio"]
    table([*header, "L1 from SciPy", "executor's MB"], rows)


main()
