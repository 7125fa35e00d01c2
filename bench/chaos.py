"""Deploys sql/movielens with a schedule of every minute on two schedulers that stand by for each other and two
executors, with a warehouse in an S3 store. Kills them and cuts all connections to the store in a random order that a
seed decides. Then every run that was due must have ended, published once or failed with a reason, and readers must have
seen whole versions only.

usage: chaos.py TARGET [MINUTES] [SEED]
"""

import atexit
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from store import Store

REPOSITORY = Path(__file__).resolve().parent.parent
LEASE = 3

# What an error of a reader says if the store is to blame, which it may be while it is cut off.
CUT_OFF = ("error sending request", "onnection refused", "onnection reset", "onnection closed", "roken pipe",
           "error decoding response body")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.ports = [(free_port(), free_port()) for _ in range(2)]
        self.addresses = ",".join(f"grpc://127.0.0.1:{port}" for port, _ in self.ports)
        self.processes = {}
        for name in ("scheduler-0", "scheduler-1", "executor-0", "executor-1"):
            self.start(name)

    def start(self, name):
        kind, number = name.split("-")
        if kind == "scheduler":
            port, http = self.ports[int(number)]
            arguments = ["scheduler", "--stand-by", "--lease", str(LEASE), "--executor-timeout", "3",
                         "--port", str(port), "--flight-port", "0", "--http-port", str(http)]
        else:
            arguments = ["executor", "--scheduler", self.addresses, "--cores", "1",
                         "--work-dir", str(self.folder / "work")]
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            [self.binary, *arguments], cwd=self.folder, stdout=log, stderr=log)

    def ended(self):
        """Starts those again that have ended by themselves, as a supervisor would, and returns their names."""
        names = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in names:
            self.start(name)
        return names

    def leader(self):
        for number, (_, http) in enumerate(self.ports):
            try:
                with socket.create_connection(("127.0.0.1", http), timeout=1) as s:
                    s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if s.recv(12) == b"HTTP/1.1 200":
                        return number
            except OSError:
                pass
        return None

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


def rows(binary, folder, *arguments):
    done = subprocess.run([binary, *arguments, "--format", "json"], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def main():
    target = Path(sys.argv[1])
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 15
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    binary = str(target / "release/nightshift")
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="nightshift-chaos-"))
    store = Store(target, folder / "s3")
    atexit.register(store.stop)
    store.configure(folder)
    pipeline = folder / "movielens"
    shutil.copytree(REPOSITORY / "sql/movielens", pipeline)
    settings = (pipeline / "pipeline.toml").read_text()
    (pipeline / "pipeline.toml").write_text(
        settings + '\ntimeout = "10m"\n[schedule]\ncron = "* * * * *"\ncatch_up = "all"\nconcurrency = "queue"\n')
    # What is the same each time would not be executed again.
    ratings = pipeline / "ratings.sql"
    text = ratings.read_text()
    assert text.endswith("FROM numbered;\n")
    ratings.write_text(text.replace("FROM numbered;\n", "FROM numbered WHERE '${interval_end}' <> '';\n"))
    cluster = Cluster(binary, folder)
    atexit.register(cluster.stop)
    subprocess.run([binary, "deploy", str(pipeline)], cwd=folder, check=True)
    seen, torn, unread, stop = [], [], {}, threading.Event()

    def read():
        query = ("SELECT (SELECT max(run) FROM system.registry WHERE name = 'recs.als' AND NOT held) AS run, "
                 "(SELECT count(*) FROM recs.als.user_factors) AS users, (SELECT count(*) FROM recs.top_items) AS top")
        while not stop.is_set():
            try:
                row = rows(binary, folder, "sql", "-c", query)[0]
                seen.append(row)
                if (row["users"], row["top"]) != (943, 9430):
                    torn.append(row)
            except RuntimeError as error:
                # Before the first run is published there is nothing to read.
                if seen:
                    text = str(error).strip()
                    unread[text] = unread.get(text, 0) + 1
                time.sleep(0.2)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    kills, takeovers, ended = {}, [], []
    end = time.time() + minutes * 60
    while time.time() < end:
        time.sleep(chance.uniform(5, 25))
        what = chance.choice(["leader", "standby", "executor-0", "executor-1", "paused leader", "store"])
        for name in cluster.ended():
            ended.append(name)
            print(f"{time.strftime('%H:%M:%S')} {name} has ended by itself", flush=True)
        leader = cluster.leader()
        if leader is None:
            continue
        kills[what] = kills.get(what, 0) + 1
        if what == "store":
            seconds = chance.uniform(0.5, 4)
            print(f"{time.strftime('%H:%M:%S')} store: cut off for {seconds:.1f} s", flush=True)
            store.cut(seconds)
            continue
        name = {"leader": f"scheduler-{leader}", "standby": f"scheduler-{1 - leader}",
                "paused leader": f"scheduler-{leader}"}.get(what, what)
        process = cluster.processes[name]
        print(f"{time.strftime('%H:%M:%S')} {what}: {name}", flush=True)
        if what == "paused leader":
            process.send_signal(signal.SIGSTOP)
            time.sleep(LEASE + 3)
            process.send_signal(signal.SIGCONT)
        else:
            process.kill()
            process.wait()
            if what == "leader":
                killed = time.time()
                while cluster.leader() is None:
                    time.sleep(0.02)
                takeovers.append(time.time() - killed)
            time.sleep(chance.uniform(0, 3))
            cluster.start(name)
    subprocess.run([binary, "pause", "movielens"], cwd=folder, check=True)
    deadline = time.time() + 300
    while time.time() < deadline:
        runs = rows(binary, folder, "runs", "--limit", "1000")
        if all(run["ended_at"] for run in runs):
            break
        time.sleep(1)
    stop.set()
    reader.join()
    runs = rows(binary, folder, "runs", "--limit", "1000")
    events = rows(binary, folder, "sql", "-c", "SELECT run, event, count(*) AS n FROM system.run_events GROUP BY run, event")
    twice = [event for event in events if event["event"] == "published" and event["n"] != 1]
    # Without any publication there is no registry.
    versions = [row["version"] for row in rows(
        binary, folder, "sql", "-c",
        "SELECT version FROM system.registry WHERE name = 'recs.als' ORDER BY publication")] if seen else []
    tally = {}
    for run in runs:
        tally[run["status"]] = tally.get(run["status"], 0) + 1
    due = [run["cause"] for run in runs]
    subprocess.run([binary, "sql", "-c", "VACUUM RETAIN 0 HOURS"], cwd=folder, check=True, capture_output=True)
    named = set()
    warehouse = store.bucket / "warehouse"
    for log in warehouse.glob("**/_delta_log/*.json"):
        for line in log.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                named.add(str(log.parent.parent / action["add"]["path"]))
    leaked = [f for f in warehouse.glob("**/*.parquet")
              if str(f) not in named and not {"_nightshift", "_delta_log"} & set(f.parts)]
    cluster.stop()
    store.stop()
    print(f"seed {seed}, {minutes:g} minutes; killed, paused or cut off: "
          + ", ".join(f"{what} {count}" for what, count in sorted(kills.items())))
    if takeovers:
        takeovers.sort()
        print(f"another leads after kill -9 of the leader: {takeovers[0]:.1f} to {takeovers[-1]:.1f} s, "
              f"median {takeovers[len(takeovers) // 2]:.1f} (lease {LEASE} s)")
    if ended:
        print("ended by themselves:", ", ".join(ended))
    print("runs:", ", ".join(f"{status} {count}" for status, count in sorted(tally.items())),
          f"; due more than once: {len(due) - len(set(due))}; taken over: {sum(run['taken_over'] for run in runs)}")
    print(f"published more than once: {len(twice)}; versions of recs.als {versions[:1]} to {versions[-1:]}, "
          f"consecutive: {versions == list(range(1, len(versions) + 1))}")
    print(f"reads: {len(seen)}, of which {len(torn)} saw no whole version; files that no log names: {len(leaked)}")
    blameless = {text: count for text, count in unread.items() if not any(sign in text for sign in CUT_OFF)}
    print(f"reads that failed while the store was cut off: {sum(unread.values()) - sum(blameless.values())}; "
          f"for another reason: {sum(blameless.values())}")
    for text, count in blameless.items():
        print(f"{count} times: {text}")
    for run in runs:
        if run["status"] not in ("published",):
            print(run["status"], run["run"], run["cause"], run["error"])
    good = not twice and not torn and not leaked and not blameless and len(due) == len(set(due)) and all(
        run["ended_at"] for run in runs) and versions == list(range(1, len(versions) + 1))
    if good:
        shutil.rmtree(folder)
    else:
        print("left for you to look at:", folder)
    sys.exit(0 if good else 1)


main()
