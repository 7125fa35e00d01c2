"""TPC-H at scale factor 1: the 22 queries through Flight SQL on two executors, beside DuckDB, DataFusion
in one process, and Spark, all with two cores over the same Parquet files. The first three take turns, query by
query, and another begins each time. Spark comes after them, with the machine to itself: its threads are busy
between its answers too, and would take their time from whoever runs beside it. The time is the best of five,
rows fetched. Results are compared with DuckDB's."""

import decimal
import math
import pathlib
import subprocess

import duckdb
from common import PEER, TARGET, cluster, geometric_mean, seconds, spark_session, table

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]
REPETITIONS = 5
DATA = TARGET / "bench-data" / "tpch-sf1"
QUERIES = sorted((pathlib.Path(__file__).parent / "tpch").glob("q*.sql"))


def generate():
    if not (DATA / "supplier.parquet").exists():
        program = TARGET / "bench-python" / "bin" / "tpchgen-cli"
        command = [program, "parquet", "--scale-factor", "1", "--output-dir", DATA]
        subprocess.run(command, check=True)


def plain(value):
    return float(value) if isinstance(value, (decimal.Decimal, float)) else value


def same(left, right):
    def ordered(rows):
        rows = [[plain(value) for value in row] for row in rows]
        return sorted(rows, key=lambda row: [str(v) for v in row if not isinstance(v, float)])

    def equal(a, b):
        if isinstance(a, float) and isinstance(b, (int, float)):
            return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)
        return a == b

    left, right = ordered(left), ordered(right)
    return len(left) == len(right) and all(
        len(a) == len(b) and all(map(equal, a, b)) for a, b in zip(left, right)
    )


class Plain:
    """DataFusion in a process of its own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [PEER, "datafusion", DATA], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def time(self, query):
        self.process.stdin.write(f"{query}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline().split()[0])


def spark_with_tables():
    spark = spark_session()
    for name in TABLES:
        spark.read.parquet(str(DATA / f"{name}.parquet")).createOrReplaceTempView(name)
    return spark


class Best(dict):
    """The shortest times of some engines for a query."""

    def __init__(self, engines):
        super().__init__((name, math.inf) for name in engines)
        turns = list(engines.items())
        for repetition in range(REPETITIONS):
            first = repetition % len(turns)
            for name, run in turns[first:] + turns[:first]:
                self[name] = min(self[name], run())


def beside_each_other():
    """For each query whether our result is DuckDB's, and the times of all but Spark."""
    duck = duckdb.connect()
    duck.execute("SET threads = 2")
    for name in TABLES:
        duck.execute(f"CREATE VIEW {name} AS SELECT * FROM '{DATA}/{name}.parquet'")
    with (
        Plain() as datafusion,
        cluster(locations=[DATA]) as ours,
        ours.connect() as connection,
        connection.cursor() as cursor,
    ):
        for name in TABLES:
            location = f"STORED AS PARQUET LOCATION '{DATA}/{name}.parquet'"
            cursor.execute(f"CREATE EXTERNAL TABLE default.{name} {location}")
        for query in QUERIES:
            sql = query.read_text()

            def nightshift():
                cursor.execute(sql)
                return cursor.fetch_arrow_table()

            found = [tuple(row.values()) for row in nightshift().to_pylist()]
            expected = duck.execute(sql).fetchall()
            best = Best(
                {
                    "nightshift": lambda: seconds(nightshift)[0],
                    "duckdb": lambda: seconds(lambda: duck.execute(sql).fetchall())[0],
                    "datafusion": lambda: datafusion.time(query),
                }
            )
            yield [query.stem, "yes" if same(found, expected) else "NO", *best.values()]
    duck.close()


def main():
    generate()
    rows = []
    for row in beside_each_other():
        rows.append(row)
        print(*row, flush=True)
    spark = spark_with_tables()
    for query, row in zip(QUERIES, rows):
        sql = query.read_text()
        row.extend(Best({"spark": lambda: seconds(lambda: spark.sql(sql).collect())[0]}).values())
        print(query.stem, "spark", row[-1], flush=True)
    means = [geometric_mean(column) for column in list(zip(*rows))[2:]]
    rows.append(["geometric mean", "", *means])
    rows.append(["nightshift's ratio", "", *(means[0] / mean for mean in means)])
    table(["query, seconds", "equal", "nightshift", "duckdb", "datafusion", "spark"], rows)


main()
