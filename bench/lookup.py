"""Point lookups by id in a table of ten million rows: one client, then eight clients for a minute, beside
DuckDB on the table's files. The clients are processes that connect with ADBC and bind the id."""

import multiprocessing
import random
import sys
import time

import duckdb
from common import cluster, numbers, quantile, table

ROWS = 10_000_000
CLIENTS = 8
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
ALONE = min(SECONDS, 10.0)
QUERY = "SELECT * FROM features.numbers WHERE id = ?"


def ours(uri, seed, until):
    import adbc_driver_flightsql.dbapi as flight_sql

    with flight_sql.connect(uri, autocommit=True) as connection:
        cursor = connection.cursor()

        def look_up(key):
            cursor.execute(QUERY, (key,))
            return cursor.fetchall()

        return lookups(look_up, seed, until)


def lookups(look_up, seed, until):
    chosen, times, errors = random.Random(seed), [], 0
    look_up(0)
    while time.time() < until:
        key = chosen.randrange(ROWS)
        started = time.perf_counter()
        try:
            rows = look_up(key)
            errors += len(rows) != 1 or rows[0][0] != key
        except Exception as error:
            print(error, file=sys.stderr)
            errors += 1
        times.append(time.perf_counter() - started)
    return times, errors


def peer(files, seed, until):
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    sql = f"SELECT * FROM read_parquet({files}) WHERE id = ?"
    return lookups(lambda key: connection.execute(sql, (key,)).fetchall(), seed, until)


def together(work, place, clients, duration):
    context = multiprocessing.get_context("spawn")
    until = time.time() + duration + 2
    with context.Pool(clients) as pool:
        results = pool.starmap(work, [(place, seed, until) for seed in range(clients)])
    times = [taken * 1000 for part, _ in results for taken in part]
    errors = sum(wrong for _, wrong in results)
    return [quantile(times, 0.5), quantile(times, 0.99), len(times) / (duration + 2), errors]


def main():
    data = numbers(ROWS)
    with cluster(locations=[data]) as running:
        with running.connect() as connection:
            cursor = connection.cursor()
            cursor.execute(f"CREATE EXTERNAL TABLE default.raw STORED AS PARQUET LOCATION '{data}/'")
            cursor.execute("CREATE TABLE features.numbers AS SELECT * FROM raw")
        folder = running.folder / "warehouse" / "features" / "numbers"
        files = [str(file) for file in sorted(folder.glob("*.parquet"))]
        rows = []
        for name, work, place in [("nightshift", ours, running.uri), ("duckdb", peer, files)]:
            for clients, duration in [(1, ALONE), (CLIENTS, SECONDS)]:
                figures = together(work, place, clients, duration)
                rows.append([name, clients, *figures])
        print(f"{ROWS} rows in {len(files)} files")
        table(["engine", "clients", "median ms", "99 % ms", "queries/s", "errors"], rows)


if __name__ == "__main__":
    main()
