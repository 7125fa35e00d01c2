"""A warehouse with 1,000 deployed pipelines and 100,000 past runs: how long `nightshift runs` takes, how long a
scheduler's look at what is due, how long until a scheduler that has just begun to lead has looked for the first time,
and how much memory they use.

usage: history.py TARGET [PIPELINES] [RUNS]
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

SECOND = 1000


def brief(run, number, begun, pipelines):
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun / SECOND))
    return {"id": run, "pipeline": f"p{number % pipelines:04}", "status": "published",
            "cause": {"by": "schedule", "due": at}, "begun_at": at, "ended_at": at, "seconds": 61.5, "steps": 13,
            "steps_done": 13, "publication": number, "taken_over": 0, "error": None}


def seven(millis, number):
    bits = (millis << 80) | (7 << 76) | ((number & 0xFFF) << 64) | (2 << 62) | number
    return str(uuid.UUID(int=bits))


def measured(arguments, folder):
    started = time.time()
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(process.stderr.read().decode())
    return time.time() - started, usage.ru_maxrss / 1024


def main():
    target = Path(sys.argv[1])
    pipelines = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    binary = str(target / "release/nightshift")
    folder = Path(tempfile.mkdtemp(prefix="nightshift-history-"))
    inner = folder / "warehouse/_nightshift"
    # One is deployed by the program; the others are written like it.
    pipeline = folder / "p"
    pipeline.mkdir()
    (pipeline / "pipeline.toml").write_text('name = "p0000"\n[schedule]\ncron = "0 3 * * *"\n')
    (pipeline / "a.sql").write_text("CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y\n")
    subprocess.run([binary, "deploy", "p"], cwd=folder, check=True)
    journal = inner / "journals/pipelines/all"
    first = json.loads((journal / "00000001.json").read_text())
    for number in range(1, pipelines):
        event = json.loads(json.dumps(first))
        event["number"] = number + 1
        event["event"]["pipeline"] = f"p{number:04}"
        (journal / f"{number + 1:08}.json").write_text(json.dumps(event))
    archive = inner / "archive/runs"
    archive.mkdir(parents=True)
    now = int(time.time() * SECOND)
    for start in range(0, runs, 1000):
        numbers = range(start, min(start + 1000, runs))
        briefs = [brief(seven(now - (runs - n) * 300 * SECOND, n), n, now - (runs - n) * 300 * SECOND, pipelines)
                  for n in numbers]
        last = briefs[-1]["id"]
        (archive / f"{last}.briefs.json").write_text(json.dumps(briefs))
        (archive / f"{last}.events.json").write_text("[]")
    # And as many that are not archived yet as there can be.
    for _ in range(120):
        subprocess.run([binary, "run", "--all", "p"], cwd=folder, check=True, capture_output=True)
    rows = []
    for name, arguments in {
        "nightshift runs": ["runs"],
        "nightshift runs --pipeline p0500": ["runs", "--pipeline", "p0500"],
        "nightshift pipelines": ["pipelines"],
        "SELECT … FROM system.runs, all of them": [
            "sql", "-c", "SELECT status, count(*) FROM system.runs GROUP BY status"],
    }.items():
        taken = [measured([binary, *arguments], folder) for _ in range(3)]
        rows.append((name, min(t for t, _ in taken), max(m for _, m in taken)))
    log = open(folder / "log", "w+")
    environment = {"NIGHTSHIFT_LOG": "warn,nightshift_scheduler=debug", "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}
    scheduler = subprocess.Popen([binary, "scheduler", "--port", "0", "--lease", "2"], cwd=folder, env=environment,
                                 stdout=subprocess.DEVNULL, stderr=log)
    time.sleep(12)
    status = Path(f"/proc/{scheduler.pid}/status").read_text()
    memory = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
    scheduler.kill()
    scheduler.wait()
    log.seek(0)
    looks = [float(seconds) for seconds in re.findall(r"looked at what is due.*?seconds=([0-9.e-]+)", log.read())]
    rows.append(("first look of a new leader", looks[0], memory))
    rows.append(("later looks, the longest", max(looks[1:]), memory))
    print(f"{pipelines} deployed pipelines, {runs} archived runs, 120 that are not")
    print(f"{'what':<42}{'seconds':>10}{'peak MB':>10}")
    for name, seconds, memory in rows:
        print(f"{name:<42}{seconds:>10.3f}{memory:>10.0f}")
    shutil.rmtree(folder)


main()
