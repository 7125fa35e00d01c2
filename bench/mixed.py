"""Fifty connections that read and write five tables for two minutes: inserts, updates, deletes and queries
at random. Every connection keeps the books of its own rows; at the end the tables must have just those."""

import random
import sys
import threading
import time

from common import cluster, quantile, table

CONNECTIONS = 50
TABLES = 5
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 120.0


class Client(threading.Thread):
    """One connection: its rows have its number."""

    def __init__(self, running, number, until):
        super().__init__()
        self.running, self.number, self.until = running, number, until
        self.chosen = random.Random(number)
        self.rows = [{} for _ in range(TABLES)]
        self.times = {"insert": [], "update": [], "delete": [], "query": []}
        self.refused, self.failure = 0, None

    def run(self):
        try:
            with self.running.connect() as connection:
                cursor = connection.cursor()
                while time.time() < self.until:
                    self.work(cursor)
        except Exception as error:
            self.failure = error

    def work(self, cursor):
        kinds = ["insert", "update", "delete", "query"]
        kind = self.chosen.choices(kinds, weights=[4, 1, 1, 4])[0]
        at = self.chosen.randrange(TABLES)
        name, rows = f"mixed.t{at}", self.rows[at]
        own = f"client = {self.number}"
        started = time.perf_counter()
        try:
            if kind == "insert":
                first = self.chosen.randrange(1 << 40)
                new = {first + i: i for i in range(self.chosen.randint(1, 20))}
                values = ", ".join(f"({self.number}, {k}, {v})" for k, v in new.items())
                cursor.execute(f"INSERT INTO {name} VALUES {values}")
                rows.update(new)
            elif kind == "update" and rows:
                key = self.chosen.choice(list(rows))
                cursor.execute(f"UPDATE {name} SET v = v + 1 WHERE {own} AND k = {key}")
                rows[key] += 1
            elif kind == "delete" and rows:
                key = self.chosen.choice(list(rows))
                cursor.execute(f"DELETE FROM {name} WHERE {own} AND k = {key}")
                del rows[key]
            else:
                kind = "query"
                cursor.execute(f"SELECT count(*), sum(v) FROM {name} WHERE {own}")
                found = cursor.fetchone()
                expected = (len(rows), sum(rows.values()) if rows else None)
                assert found == expected, f"{name}: {found}, not {expected}"
        except Exception as error:
            # Too many others have changed the table meanwhile: then nothing has happened.
            if "40001" not in str(error):
                raise
            self.refused += 1
        self.times[kind].append(time.perf_counter() - started)


def main():
    with cluster() as running:
        with running.connect() as connection:
            cursor = connection.cursor()
            for at in range(TABLES):
                cursor.execute(f"CREATE TABLE mixed.t{at} (client BIGINT, k BIGINT, v BIGINT)")
            until = time.time() + SECONDS
            clients = [Client(running, number, until) for number in range(CONNECTIONS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            failures = [client.failure for client in clients if client.failure]
            assert not failures, failures
            for at in range(TABLES):
                cursor.execute(f"SELECT client, k, v FROM mixed.t{at} ORDER BY client, k")
                expected = [
                    (client.number, k, v)
                    for client in clients
                    for k, v in sorted(client.rows[at].items())
                ]
                assert cursor.fetchall() == expected, f"the rows of mixed.t{at} don't add up"
    rows = []
    for kind in clients[0].times:
        times = [taken * 1000 for client in clients for taken in client.times[kind]]
        rows.append([kind, len(times), quantile(times, 0.5), quantile(times, 0.99)])
    table(["statement", "number", "median ms", "99 % ms"], rows)
    total = sum(len(client.rows[at]) for client in clients for at in range(TABLES))
    refused = sum(client.refused for client in clients)
    print(f"{total} rows are as they must be; {refused} statements were refused as conflicts")


main()
