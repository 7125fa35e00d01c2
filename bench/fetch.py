"""Ten million rows of ten columns fetched by one client: how fast, beside an Arrow Flight server that does
nothing else, and how much memory the scheduler needs for it."""

import subprocess

import pyarrow.flight
from common import PEER, Memory, cluster, numbers, seconds, table

ROWS = 10_000_000
REPETITIONS = 3


def main():
    data = numbers(ROWS)
    peer = subprocess.Popen([PEER, "flight", data], stdout=subprocess.PIPE, text=True)
    port = int(peer.stdout.readline())
    plain = pyarrow.flight.connect(f"grpc://127.0.0.1:{port}")

    def fetch_plain():
        return count(plain.do_get(pyarrow.flight.Ticket(b"")))

    def count(reader):
        rows = size = 0
        for chunk in reader:
            batch = getattr(chunk, "data", chunk)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        assert rows == ROWS, rows
        return size / 1e6

    with cluster(locations=[data]) as ours, ours.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE EXTERNAL TABLE default.raw STORED AS PARQUET LOCATION '{data}/'")

        def fetch_ours():
            cursor.execute("SELECT * FROM raw")
            return count(cursor.fetch_record_batch())

        best = {}
        growth = 0.0
        for _ in range(REPETITIONS):
            for name, fetch in [("nightshift", fetch_ours), ("plain Arrow Flight", fetch_plain)]:
                with Memory(ours.scheduler) as memory:
                    taken, megabytes = seconds(fetch)
                if name == "nightshift":
                    growth = max(growth, memory.growth)
                best[name] = max(best.get(name, 0.0), megabytes / taken)
    peer.kill()
    rows = [[name, speed] for name, speed in best.items()]
    rows.append(["ratio", best["nightshift"] / best["plain Arrow Flight"]])
    table(["ten million rows", "MB/s"], rows)
    print(f"the scheduler's memory grew by at most {growth:.0f} MB")


main()
