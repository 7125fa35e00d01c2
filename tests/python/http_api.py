"""What programs do over HTTP, with Python's standard library alone; pyarrow reads Arrow's format, and the
driver for Flight SQL is somebody else whose query is cancelled."""

import concurrent.futures
import http.client
import io
import json
import sys
import time
import urllib.parse

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow.ipc
from common import finish

address, flight_address, warehouse = sys.argv[1:4]
host = urllib.parse.urlsplit(address).netloc

JSON, LINES, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"

RATINGS = """CREATE TABLE shop.ratings AS
    SELECT u.n AS user_id, i.n AS item_id, 'item "' || i.n || '"' AS title, CAST((u.n * 7 + i.n * 5) % 5 + 1 AS DOUBLE) AS rating
    FROM (SELECT unnest(generate_series(1, 20)) AS n) AS u
    CROSS JOIN (SELECT unnest(generate_series(1, 15)) AS n) AS i"""

# Takes the only core of the cluster for longer than a test may take.
ENDLESS = """SELECT sum((a.n * 31 + b.n * 17) % 1009) AS total
    FROM (SELECT unnest(generate_series(1, 300000)) AS n) AS a
    CROSS JOIN (SELECT unnest(generate_series(1, 300000)) AS n) AS b"""

# Takes no time, but an executor; small queries need none.
ON_EXECUTOR = "SELECT unnest([1])"

# Far more than a connection holds while nobody reads.
MANY = """SELECT a.n * 2500 + b.n AS n
    FROM (SELECT unnest(generate_series(1, 2000)) AS n) AS a
    CROSS JOIN (SELECT unnest(generate_series(1, 2500)) AS n) AS b"""


def begin(method, path, body=None, **headers):
    """Sends a request and returns its connection."""
    connection = http.client.HTTPConnection(host, timeout=60)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content_Type", JSON)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return connection


def send(method, path, body=None, **headers):
    """Sends a request and returns the status, the headers and the whole answer."""
    connection = begin(method, path, body, **headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, response.headers, answer


def get(path):
    status, headers, answer = send("GET", path)
    assert (status, headers["Content-Type"]) == (200, JSON), (status, answer)
    return json.loads(answer)


def sql(text, *parameters):
    status, headers, answer = send("POST", "/api/v1/sql", {"sql": text, "parameters": parameters})
    assert status == 200, (text, status, answer)
    answer = json.loads(answer)
    assert headers["x-query-id"] == answer["query_id"], (headers["x-query-id"], answer)
    return answer


def rows(text, *parameters):
    return sql(text, *parameters)["rows"]


def fails(status, code, signs, method, path, body=None, **headers):
    """Checks the status of an error, its SQLSTATE and what its message says."""
    found, answered, answer = send(method, path, body, **headers)
    error = json.loads(answer)
    assert (found, error["code"], answered["Content-Type"]) == (status, code, JSON), (found, error)
    for sign in signs:
        assert sign in error["message"], (sign, error)
    return error


def refuses(status, code, signs, text, *parameters):
    return fails(status, code, signs, "POST", "/api/v1/sql", {"sql": text, "parameters": parameters})


def until(happened, what, seconds=30):
    """Waits for something that must happen soon."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, what
    return found


def describes_itself():
    assert get("/healthz")["status"] == "ok"
    document = get("/api/v1/openapi.json")
    routes = {(method, path) for path, item in document["paths"].items() for method in item}
    assert routes == {
        ("post", "/api/v1/sql"),
        ("get", "/api/v1/queries"),
        ("get", "/api/v1/queries/{id}"),
        ("delete", "/api/v1/queries/{id}"),
        ("get", "/api/v1/executors"),
        ("get", "/healthz"),
    }, routes


def changes_and_reads():
    made = sql(RATINGS)
    assert made["rows_changed"] == 300 and made["written"][0]["name"] == "shop.ratings", made
    assert made["publication"] is not None, made
    answer = sql("SELECT count(*) AS n, min(title) AS first FROM shop.ratings")
    assert answer["columns"] == [{"name": "n", "type": "BIGINT"}, {"name": "first", "type": "VARCHAR"}], answer
    assert answer["rows"] == [[300, 'item "1"']], answer
    assert "error" not in answer, answer
    assert rows("SELECT title FROM shop.ratings WHERE user_id = $1 AND rating > ? LIMIT 0", 2, 1.5) == []
    assert rows("SELECT $1 || '!', $2 + 1, $3, ?", "it's", 41, True, None) == [["it's!", 42, True, None]]
    assert sql("INSERT INTO shop.ratings VALUES (?, ?, ?, ?)", 21, 1, "it's", 0.5)["rows_changed"] == 1
    assert rows("SELECT title, rating FROM shop.ratings WHERE user_id = 21") == [["it's", 0.5]]


def formats_are_equal():
    query = """SELECT *, rating > 3 AS good, CASE WHEN user_id <> 2 THEN user_id END AS gap, [user_id, item_id] AS pair
        FROM shop.ratings ORDER BY user_id, item_id"""

    def fetch(query):
        def answer(accept):
            status, headers, answer = send("POST", "/api/v1/sql", {"sql": query}, Accept=accept)
            assert (status, headers["Content-Type"]) == (200, accept.split(",")[0]), (status, answer)
            assert headers["x-query-id"], headers
            return answer

        whole = json.loads(answer(JSON))
        names = [column["name"] for column in whole["columns"]]
        lines = [json.loads(line) for line in answer(LINES).splitlines()]
        arrow = pyarrow.ipc.open_stream(io.BytesIO(answer(ARROW + ", */*"))).read_all()
        assert arrow.column_names == names, (arrow.column_names, names)
        return [dict(zip(names, row)) for row in whole["rows"]], lines, arrow.to_pylist()

    from_json, from_lines, from_arrow = fetch(query)
    assert len(from_arrow) == 301 and from_arrow[16]["gap"] is None and from_arrow[16]["pair"] == [2, 2]
    assert from_json == from_lines == from_arrow
    from_json, from_lines, from_arrow = fetch("SELECT unnest(generate_series(1, 100000)) AS n")
    assert len(from_arrow) == 100000
    assert from_json == from_lines == from_arrow
    assert fetch("SELECT user_id, title FROM shop.ratings WHERE user_id < 0") == ([], [], [])


def names_errors():
    error = refuses(400, "42703", ["ratng", "rating"], "SELECT user_id,\n ratng FROM shop.ratings")
    assert (error["line"], error["column"]) == (2, 2), error
    assert get(f"/api/v1/queries/{error['query_id']}")["state"] == "failed"
    error = refuses(400, "42601", ["found: SELECT"], "SELECT 1 SELECT 2")
    assert (error["line"], error["column"]) == (1, 10), error
    assert refuses(400, "42601", ["one statement"], "SELECT 1;\nSELECT 2")["line"] == 2
    refuses(400, "42601", ["no statement"], " ; ")
    refuses(404, "42P01", ["shop.nothing"], "SELECT * FROM shop.nothing")
    refuses(409, "42P07", ["exists already"], RATINGS)
    refuses(400, "22012", [], "SELECT user_id / (user_id - user_id) FROM shop.ratings")
    refuses(400, "07001", ["2 parameters"], "SELECT ?, ?", 1)
    refuses(400, "0A000", ["parameter $1"], "SELECT ?", [1])
    post = ("POST", "/api/v1/sql")
    request = {"sql": "SELECT 1"}
    fails(400, "08P01", ["sq"], *post, {"sq": "SELECT 1"})
    fails(400, "08P01", [], *post, b"{", Content_Type=JSON)
    fails(406, "0A000", [LINES], *post, request, Accept="text/html")
    fails(415, "08P01", [JSON], *post, request, Content_Type="text/plain")
    fails(413, "54000", ["4194304 bytes"], *post, {"sql": "SELECT '" + "x" * (4 << 20) + "'"})
    fails(403, "42501", ["evil.example"], *post, request, Origin="http://evil.example")
    fails(421, "42501", ["evil.example"], *post, request, Host="evil.example")
    fails(404, "26000", ["openapi.json"], "GET", "/api/v2/sql")
    fails(405, "08P01", [], "GET", "/api/v1/sql")
    unknown = "/api/v1/queries/01900000-0000-7000-8000-000000000000"
    fails(404, "26000", ["no query"], "GET", unknown)
    fails(404, "26000", ["no query"], "DELETE", unknown)
    fails(400, "08P01", [], "DELETE", "/api/v1/queries/all")
    fails(400, "08P01", ["'done'", "finished"], "GET", "/api/v1/queries?state=done")


def queries(state):
    """Those of a state; no executor is needed to know them."""
    return get(f"/api/v1/queries?state={state}")["queries"]


def lists():
    secret = f"""CREATE EXTERNAL TABLE here.ratings STORED AS PARQUET LOCATION '{warehouse}/shop/ratings/'
        OPTIONS ('aws.secret_access_key' 'hidden')"""
    send("POST", "/api/v1/sql", {"sql": secret})
    sql("SELECT user_id FROM shop.ratings -- lists")
    done = queries("finished")[0]
    assert done["statement"] == "SELECT user_id FROM shop.ratings -- lists", done
    assert (done["rows"], done["bytes"], done["via"], done["who"]) == (301, 301 * 8, "http", "127.0.0.1"), done
    assert done["started_at"] <= done["ended_at"] and done["error"] is None, done
    assert get(f"/api/v1/queries/{done['id']}") == done
    failed = next(query for query in queries("failed") if "ratng" in query["statement"])
    assert "ratng" in failed["error"], failed
    every = get("/api/v1/queries?limit=10000")
    assert "'***'" in json.dumps(every) and "hidden" not in json.dumps(every)
    assert len(get("/api/v1/queries?limit=2")["queries"]) == 2
    # The same in SQL, where a query finds itself being planned.
    select = "SELECT state, rows, error IS NOT NULL, rows_changed FROM system.queries WHERE"
    assert rows(f"{select} id = $1", done["id"]) == [["finished", 301, False, None]]
    assert rows(f"{select} id = $1", failed["id"]) == [["failed", 0, True, None]]
    assert rows(f"{select} state = 'planning'") == [["planning", 0, False, None]]
    assert rows(f"{select} statement LIKE 'INSERT%'") == [["finished", 0, False, 1]]
    assert rows("SELECT count(*) > 20, count(DISTINCT id) = count(*) FROM system.queries") == [[True, True]]
    [[executor, cores, memory, heard]] = rows(
        "SELECT id, cores, memory > 1000000, now() - last_heartbeat < INTERVAL '1 minute' FROM system.executors"
    )
    [listed] = get("/api/v1/executors")["executors"]
    assert (listed["id"], listed["cores"], listed["state"]) == (executor, cores, "active"), listed
    assert (cores, memory, heard) == (1, True, True)
    assert ["executors"] in rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'system'")


def busy():
    [executor] = get("/api/v1/executors")["executors"]
    return executor["busy_cores"]


def running(sign):
    """Waits until a query runs and holds the only core."""
    find = lambda: next((query for query in queries("running") if sign in query["statement"]), None)
    query = until(find, f"{sign} does not run")
    until(lambda: busy() == 1, "no core is busy")
    return query["id"]


def cancels():
    def freed(query, began):
        assert rows(ON_EXECUTOR) == [[1]]
        seconds = time.monotonic() - began
        assert seconds < 2, f"the executor was free after {seconds:.1f} s"
        until(lambda: get(f"/api/v1/queries/{query}")["state"] == "cancelled", "it is not cancelled")
        until(lambda: busy() == 0, "a core is busy")
        print(f"free after {seconds:.2f} s")

    def driver():
        with flight_sql.connect(flight_address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"{ENDLESS} -- of a driver")
            cursor.fetchall()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for statement in [ENDLESS, f"CREATE TABLE shop.never AS {ENDLESS}"]:
            asked = pool.submit(send, "POST", "/api/v1/sql", {"sql": statement})
            query = running(statement)
            began = time.monotonic()
            status, _, answer = send("DELETE", f"/api/v1/queries/{query}")
            assert status == 202, answer
            status, headers, answer = asked.result(timeout=30)
            assert status == 499 and json.loads(answer)["code"] == "57014", answer
            assert headers["x-query-id"] == json.loads(answer)["query_id"] == query, headers
            freed(query, began)
            fails(409, "55000", ["cancelled"], "DELETE", f"/api/v1/queries/{query}")
        refuses(404, "42P01", [], "SELECT * FROM shop.never")
        # What somebody else has asked for in another way.
        asked = pool.submit(driver)
        query = running("of a driver")
        assert get(f"/api/v1/queries/{query}")["via"] == "flight-sql"
        began = time.monotonic()
        send("DELETE", f"/api/v1/queries/{query}")
        freed(query, began)
        assert "57014" in str(asked.exception(timeout=30))
    # A client that goes away.
    for statement in [ENDLESS, f"CREATE TABLE shop.never AS {ENDLESS}"]:
        connection = begin("POST", "/api/v1/sql", {"sql": f"{statement} -- and away"})
        query = running("and away")
        began = time.monotonic()
        connection.close()
        freed(query, began)


def breaks_off():
    """Answers that end before all rows were sent are recognized as such."""
    for accept in [JSON, LINES, ARROW]:
        connection = begin("POST", "/api/v1/sql", {"sql": MANY}, Accept=accept)
        response = connection.getresponse()
        assert response.status == 200, response.status
        answer = response.read(1000)
        query = response.headers["x-query-id"]
        assert get(f"/api/v1/queries/{query}")["state"] == "running"
        status, _, cancelled = send("DELETE", f"/api/v1/queries/{query}")
        assert status == 202, cancelled
        try:
            answer += response.read()
            whole = True
        except http.client.IncompleteRead as error:
            answer += error.partial
            whole = False
        connection.close()
        if accept == JSON:
            answer = json.loads(answer)
            assert whole and len(answer["rows"]) < 5000000 and answer["error"]["code"] == "57014", answer["error"]
        elif accept == LINES:
            last = json.loads(answer.splitlines()[-1])
            assert whole and last["query_id"] == query and last["error"]["code"] == "57014", last
        else:
            assert not whole


describes_itself()
changes_and_reads()
formats_are_equal()
names_errors()
lists()
cancels()
breaks_off()
print("done")
finish()
