"""What the measurements share: data, a cluster of processes, tables of figures."""

import contextlib
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi as flight_sql

TARGET = pathlib.Path(sys.argv[1])
PROGRAM = TARGET / "release" / "nightshift"
PEER = TARGET / "release" / "examples" / "peer"


class Cluster:
    """A scheduler and executors with some cores each, every one a process."""

    def __init__(self, folder, executors, locations=(), options=()):
        self.folder = folder
        self.processes = []
        listed = ", ".join(f"'{location}'" for location in locations)
        (folder / "nightshift.toml").write_text(f"locations = [{listed}]\n")
        self.scheduler = self.start("scheduler", "--port", "0")
        address = self.line("scheduler ")
        self.uri = self.line("flight ")
        self.executors = []
        for cores in executors:
            # As `nightshift up` does it.
            shared = ["--work-dir", folder / "work"]
            given = ["--scheduler", address, "--cores", str(cores), *shared, *options]
            self.executors.append(self.start("executor", *given))
            self.executors[-1].stdout.readline()

    def start(self, *arguments):
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env={**os.environ, "NIGHTSHIFT_LOG": "warn"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def line(self, prefix):
        line = self.scheduler.stdout.readline().strip()
        assert line.startswith(prefix), line
        return line.removeprefix(prefix)

    def connect(self):
        return flight_sql.connect(self.uri, autocommit=True)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(executors=(1, 1), locations=(), options=()):
    with tempfile.TemporaryDirectory(dir=TARGET) as folder:
        running = Cluster(pathlib.Path(folder), executors, locations, options)
        try:
            yield running
        finally:
            running.stop()


def seconds(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def quantile(values, share):
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)]


# Models of the data below, and what all measurements of one kind have in common.
FACTORIZATION = {
    "model_type": "matrix_factorization", "feedback_type": "implicit",
    "user_col": "user_id", "item_col": "item_id", "rating_col": "weight",
    "wals_alpha": 10, "l2_reg": 1, "early_stop": False,
}
PAGERANK = {"model_type": "pagerank", "source_col": "source", "target_col": "target"}


def create_model(name, kind, query="SELECT * FROM default.given", **options):
    """The statement that trains a model of a kind (FACTORIZATION, PAGERANK) with these options besides."""

    def literal(value):
        return str(value).lower() if isinstance(value, bool) else repr(value)

    options = ", ".join(f"{option} = {literal(value)}" for option, value in {**kind, **options}.items())
    return f"CREATE OR REPLACE MODEL {name} OPTIONS ({options}) AS {query}"


def exact_flops(interactions, rows, factors):
    """Floating-point operations of the exact solves of one iteration: the products of both sides, and the Cholesky
    decomposition and the solves of each row."""
    return 2 * interactions * factors * (factors + 1) + rows * (factors**3 / 3 + 2 * factors**2)


def table(header, rows):
    """Prints rows as Markdown, numbers with three digits that count."""

    def text(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    cells = [[text(value) for value in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


class Memory:
    """The largest resident memory of a process while this is open, in megabytes. The system keeps count of it: whoever
    asks often takes time from what is measured, if that uses all cores."""

    # A process may be killed, and is asked now and then what it has had until then.
    SECONDS = 1

    def __init__(self, process):
        self.process = pathlib.Path("/proc") / str(process.pid)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def megabytes(self, name):
        # A process that was killed has none.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (self.process / "status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def ask(self):
        self.most = max(self.most, self.megabytes("VmHWM"))

    def watch(self):
        while not self.closed.wait(self.SECONDS):
            self.ask()

    def __enter__(self):
        # What it has now is the largest from here on (proc_pid_clear_refs(5)).
        (self.process / "clear_refs").write_text("5")
        self.before = self.most = self.megabytes("VmRSS")
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.thread.join()
        self.ask()

    @property
    def growth(self):
        return self.most - self.before


@contextlib.contextmanager
def trained(file, executors, statement, *before, options=()):
    """A cursor on a cluster that has executed CREATE MODEL over the table `given`, after the statements `before`, the
    seconds that it took, and each executor's largest memory in megabytes. `options` are those of executors."""
    locations = [file.parent]
    with cluster(executors, locations, options) as running, running.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE EXTERNAL TABLE default.given STORED AS PARQUET LOCATION '{file}'")
        for other in before:
            cursor.execute(other)
        with contextlib.ExitStack() as stack:
            memories = [stack.enter_context(Memory(process)) for process in running.executors]
            total, _ = seconds(lambda: cursor.execute(statement))
        yield cursor, total, [memory.most for memory in memories]


@contextlib.contextmanager
def training(file, cores, statement):
    """The same with one executor."""
    with trained(file, [cores], statement) as (cursor, total, memory):
        yield cursor, total, memory[0]


def spark_session():
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[2]").config("spark.driver.memory", "12g")
    spark = spark.config("spark.sql.shuffle.partitions", "2").config("spark.ui.enabled", "false")
    return spark.config("spark.log.level", "ERROR").getOrCreate()


def iteration_seconds(cursor, model, count):
    cursor.execute(f"SELECT seconds FROM ml_training_info('{model}') WHERE seconds IS NOT NULL")
    iterations = [row[0] for row in cursor.fetchall()]
    assert len(iterations) == count, iterations
    return iterations


def numbers(rows):
    """A folder with a Parquet file of ten columns: an id that counts up, and figures."""
    import duckdb

    folder = TARGET / "bench-data" / f"numbers-{rows}"
    file = folder / "numbers.parquet"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        figures = ", ".join(f"hash(i * 8 + {n}) / 18446744073709551616.0 AS f{n}" for n in range(7))
        duckdb.sql(
            f"COPY (SELECT i AS id, 'item ' || i AS name, (hash(i) % 1000)::INTEGER AS category,"
            f" {figures} FROM range({rows}) r(i)) TO '{file}.new' (FORMAT parquet)"
        )
        os.rename(f"{file}.new", file)
    return folder


SIZES = {"2M": (13_800, 27_000), "20M": (138_000, 27_000), "200M": (1_380_000, 27_000)}
GROUPS = 64
PER_USER = 131


def interactions(size):
    """A Parquet file of (user_id, item_id, weight): how active users and how popular items are follows power laws,
    and each user prefers the items of some groups. Written in parts, with the memory of one."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    users, items = SIZES[size]
    file = TARGET / "bench-data" / f"interactions-{size}.parquet"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    popularity = 1 / numpy.arange(20, items + 20) ** 0.9
    total = numpy.cumsum(popularity / popularity.sum())
    # What is popular in a group is a shuffle of what is popular.
    orders = [numpy.random.default_rng(1000 + group).permutation(items) for group in range(GROUPS)]
    schema = pyarrow.schema(
        [("user_id", pyarrow.int64()), ("item_id", pyarrow.int64()), ("weight", pyarrow.float32())]
    )
    part = 4_600
    with pyarrow.parquet.ParquetWriter(f"{file}.new", schema) as writer:
        for first in range(0, users, part):
            random = numpy.random.default_rng(first)
            activity = random.pareto(1.6, part) + 0.2
            counts = numpy.clip(activity * PER_USER * 0.6, 5, 6_000).astype(int)
            user = numpy.repeat(numpy.arange(first, first + part), counts)
            likes = random.integers(0, GROUPS, (part, 3))
            group = likes[user - first, random.integers(0, 3, len(user))]
            rank = numpy.searchsorted(total, random.random(len(user)))
            item = numpy.minimum(rank, items - 1)
            for own in range(GROUPS):
                of_group = (group == own) & (random.random(len(user)) < 0.8)
                item[of_group] = orders[own][item[of_group]]
            pairs = numpy.unique(user * items + item)
            weight = random.integers(1, 6, len(pairs)).astype(numpy.float32)
            columns = [pairs // items, pairs % items, weight]
            writer.write_table(pyarrow.table(columns, schema=schema))
    os.rename(f"{file}.new", file)
    return file


def rmat(scale):
    """A Parquet file of (source, target): a graph as of Graph500, of 2^scale nodes with 16 edges for each, some of
    them more than once. Written in parts, with the memory of one."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    file = TARGET / "bench-data" / f"rmat-{scale}.parquet"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    a, b, c = 0.57, 0.19, 0.19
    names = numpy.random.default_rng(0).permutation(1 << scale)
    schema = pyarrow.schema([("source", pyarrow.int64()), ("target", pyarrow.int64())])
    part = min(1 << 20, 16 << scale)
    with pyarrow.parquet.ParquetWriter(f"{file}.new", schema) as writer:
        for number in range((16 << scale) // part):
            random = numpy.random.default_rng([scale, number])
            source, target = numpy.zeros((2, part), numpy.int64)
            for _ in range(scale):
                quarter = random.random(part)
                below = quarter > a + b
                right = numpy.where(below, quarter > a + b + c, quarter > a)
                source, target = 2 * source + below, 2 * target + right
            writer.write_table(pyarrow.table([names[source], names[target]], schema=schema))
    os.rename(f"{file}.new", file)
    return file
