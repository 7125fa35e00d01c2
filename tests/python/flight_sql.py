"""What SQL clients do, with the ADBC driver for Flight SQL, and with plain Flight for what the driver
does not use."""

import concurrent.futures
import subprocess
import sys
import time

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow
import pyarrow.flight
from common import finish

address, warehouse = sys.argv[1:3]

RATINGS = """CREATE TABLE shop.ratings AS
    SELECT u.n AS user_id, i.n AS item_id, 'item ' || i.n AS title, CAST((u.n * 7 + i.n * 5) % 5 + 1 AS DOUBLE) AS rating
    FROM (SELECT unnest(generate_series(1, 20)) AS n) AS u
    CROSS JOIN (SELECT unnest(generate_series(1, 15)) AS n) AS i
    WHERE (u.n * 3 + i.n * 11) % 4 <> 0"""
ROWS = sum((u * 3 + i * 11) % 4 != 0 for u in range(1, 21) for i in range(1, 16))

# Takes the only core of the cluster for longer than a test may take.
ENDLESS = """SELECT sum((a.n * 31 + b.n * 17) % 1009) AS total
    FROM (SELECT unnest(generate_series(1, 300000)) AS n) AS a
    CROSS JOIN (SELECT unnest(generate_series(1, 300000)) AS n) AS b"""


def connect(**options):
    return flight_sql.connect(address, db_kwargs=options, autocommit=True)


def fails(kind, signs, execute):
    """Checks the kind of an error and what its message says."""
    try:
        execute()
    except kind as error:
        for sign in signs:
            assert sign in str(error), (sign, str(error))
        return
    raise AssertionError(f"{signs}: no error")


def value(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows = cursor.fetchall()
        assert len(rows) == 1 and len(rows[0]) == 1, rows
        return rows[0][0]


def writes_and_reads(connection):
    with connection.cursor() as cursor:
        cursor.execute(RATINGS)
        assert cursor.rowcount == ROWS, cursor.rowcount
        assert cursor.fetchall() == []
        cursor.execute("SELECT user_id, title, rating FROM shop.ratings WHERE user_id = 2 ORDER BY item_id")
        table = cursor.fetch_arrow_table()
        types = [str(field.type) for field in table.schema]
        assert types == ["int64", "string", "double"], types
        assert table.num_rows == sum((6 + i * 11) % 4 != 0 for i in range(1, 16))
        # A statement that changes something, executed as such.
        cursor.executescript("CREATE TABLE shop.users AS SELECT DISTINCT user_id FROM shop.ratings")
        cursor.executescript("SELECT * FROM shop.users")
    published = "SELECT count(*) FROM system.registry WHERE name = 'shop.ratings'"
    assert value(connection, published) == 1
    assert value(connection, "SELECT count(*) FROM shop.users") == 20


def binds(connection):
    count = "SELECT count(*) FROM shop.ratings WHERE user_id = $1 AND title LIKE $2"
    assert value(connection, count, (2, "item 1%")) == value(
        connection, "SELECT count(*) FROM shop.ratings WHERE user_id = 2 AND title LIKE 'item 1%'"
    )
    marked = "SELECT count(*) FROM shop.ratings WHERE title <> '?' AND rating BETWEEN ? AND ?"
    assert 0 < value(connection, marked, (1.5, 3.5)) < ROWS
    with connection.cursor() as cursor:
        statement = cursor.adbc_statement
        statement.set_sql_query("SELECT title FROM shop.ratings WHERE user_id = $1")
        statement.prepare()
        parameters = pyarrow.schema(statement.get_parameter_schema())
        assert parameters.field(0).type == pyarrow.int64(), parameters
        # A query that is executed with several rows of values returns the rows of all.
        cursor.execute(
            "SELECT DISTINCT user_id FROM shop.ratings WHERE user_id = $1",
            pyarrow.record_batch([pyarrow.array([3, 5, 7])], names=["user"]),
        )
        assert sorted(row[0] for row in cursor.fetchall()) == [3, 5, 7]
        cursor.execute("CREATE TABLE shop.bound AS SELECT $1 AS text, $2 AS number", ("it's", 0.5))
        cursor.execute("SELECT * FROM shop.bound")
        assert cursor.fetchall() == [("it's", 0.5)]
        # A statement that changes something is executed for each.
        cursor.executemany("INSERT INTO shop.bound VALUES (?, ?)", [("a", 1.5), ("b", -2.0)])
        assert cursor.rowcount == 2, cursor.rowcount
        cursor.execute("SELECT * FROM shop.bound ORDER BY number")
        assert cursor.fetchall() == [("b", -2.0), ("it's", 0.5), ("a", 1.5)]
        cursor.execute("CREATE VIEW shop.seen AS SELECT text FROM shop.bound")
    fails(flight_sql.ProgrammingError, ["2 parameters", "07001"], lambda: value(connection, count, (2,)))


def browses(connection):
    assert connection.adbc_get_info()["vendor_name"] == "Nightshift"
    assert "TABLE" in connection.adbc_get_table_types()
    objects = connection.adbc_get_objects().read_all().to_pylist()
    assert [catalog["catalog_name"] for catalog in objects] == ["nightshift"]
    found = {
        (schema["db_schema_name"], table["table_name"]): table
        for schema in objects[0]["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    assert ("shop", "ratings") in found and ("system", "registry") in found, found.keys()
    assert found["shop", "seen"]["table_type"] == "VIEW", found["shop", "seen"]
    columns = [column["column_name"] for column in found["shop", "ratings"]["table_columns"]]
    assert columns == ["user_id", "item_id", "title", "rating"], columns
    filtered = connection.adbc_get_objects(
        depth="tables", db_schema_filter="sh%", table_name_filter="rat_ngs"
    ).read_all().to_pylist()
    tables = [table["table_name"] for schema in filtered[0]["catalog_db_schemas"] for table in schema["db_schema_tables"]]
    assert tables == ["ratings"], tables
    schema = connection.adbc_get_table_schema("ratings", db_schema_filter="shop")
    assert schema.field("title").type == pyarrow.string(), schema


def trains(connection):
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE MODEL recs.als OPTIONS (model_type = 'matrix_factorization', num_factors = 3, "
            "max_iterations = 4) AS SELECT user_id, item_id, rating FROM shop.ratings"
        )
        cursor.execute("SELECT * FROM ml_recommend('recs.als', 2) ORDER BY user_id, rank")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 40, table
        assert table.column_names == ["user_id", "rank", "item_id", "score"], table.column_names
        # A model's tables can be read by the names that clients browse.
        objects = connection.adbc_get_objects(depth="tables", db_schema_filter="recs.als").read_all().to_pylist()
        tables = [table["table_name"] for table in objects[0]["catalog_db_schemas"][0]["db_schema_tables"]]
        assert "user_factors" in tables, tables
        cursor.execute('SELECT count(*) FROM "nightshift"."recs.als"."user_factors"')
        assert cursor.fetchall() == [(20,)]


def names_errors(connection):
    def execute(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            cursor.fetchall()

    error = flight_sql.ProgrammingError
    fails(error, ["statement:2:2: ", "ratng", "rating", "42703"], lambda: execute("SELECT user_id,\n ratng FROM shop.ratings"))
    fails(error, ["statement:1:10: ", "42601"], lambda: execute("SELECT 1 SELECT 2"))
    fails(error, ["one statement", "42601"], lambda: execute("SELECT 1; SELECT 2"))
    fails(error, ["shop.nothing", "42P01"], lambda: execute("SELECT * FROM shop.nothing"))
    fails(flight_sql.Error, ["exists already", "42P07"], lambda: execute(RATINGS))
    zero = "SELECT user_id / (user_id - user_id) FROM shop.ratings"
    fails(flight_sql.Error, ["22012"], lambda: execute(zero))
    cast = "SELECT CAST(title AS BIGINT) FROM shop.ratings"
    fails(flight_sql.Error, ["item", "22018"], lambda: execute(cast))


def takes_long_statements(connection):
    assert value(connection, f"SELECT length('{'x' * 10_000_000}')") == 10_000_000
    # The driver itself sends no more than 16 MB.
    fails(flight_sql.Error, ["larger than max"], lambda: value(connection, f"SELECT '{'x' * (17 << 20)}'"))
    # Ten megabytes of a list are answered or refused; the server stays.
    numbers = ", ".join(map(str, range(1_000_000_000, 1_000_830_000)))
    try:
        found = value(connection, f"SELECT count(*) FROM shop.ratings WHERE user_id IN (1, {numbers})")
        assert found == value(connection, "SELECT count(*) FROM shop.ratings WHERE user_id = 1") > 0
    except flight_sql.Error as error:
        print(f"a list of {len(numbers)} bytes is refused: {str(error)[:200]}")
    assert value(connection, "SELECT count(*) FROM shop.ratings") == ROWS


def lists_queries(connection):
    """What was executed is known by its text, without the values that were bound to it."""

    def count(condition):
        return value(connection, f"SELECT count(*) FROM system.queries WHERE via = 'flight-sql' AND {condition}")

    inserts = "statement = 'INSERT INTO shop.bound VALUES ($1, $2)'"
    assert count(f"{inserts} AND state = 'finished' AND rows_changed = 1") == 2
    assert count("state = 'failed' AND error LIKE '%shop.ratings exists already%'") >= 1
    assert count("rows = 20 AND statement = 'SELECT * FROM shop.users'") == 1
    assert value(connection, "SELECT sum(cores) FROM system.executors WHERE state = 'active'") == 1


def has_files_of_its_own(connection):
    """What a client reads in place is its own, however it is recognized."""
    with connect(username="anybody", password="anything") as other:
        for owner, stranger in [(connection, other), (other, connection)]:
            with owner.cursor() as cursor:
                cursor.execute(f"CREATE EXTERNAL TABLE here.users STORED AS PARQUET LOCATION '{warehouse}/shop/users/'")
            assert value(owner, "SELECT count(*) FROM here.users") == 20
            if stranger is other:
                fails(flight_sql.ProgrammingError, ["42P01"], lambda: value(stranger, "SELECT count(*) FROM here.users"))


def at_the_same_time():
    def ask(number):
        with connect() as connection:
            return value(connection, f"SELECT {number} + count(*) FROM shop.ratings")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(8))) == [number + ROWS for number in range(8)]


def ingests(connection):
    rows = 1_000_000
    sent = pyarrow.table(
        {
            "id": pyarrow.array(range(rows)),
            "name": pyarrow.array([f"name {n % 1000}" for n in range(rows)]).dictionary_encode(),
            "at": pyarrow.array([n * 1_000_000 for n in range(rows)], pyarrow.timestamp("us", "UTC")),
        }
    )
    # The driver sends a batch in one message, of 16 MB at most.
    sent = pyarrow.Table.from_batches(sent.to_batches(max_chunksize=100_000))

    def ingest(data, mode):
        with connection.cursor() as cursor:
            return cursor.adbc_ingest("sent", data, mode=mode, db_schema_name="shop")

    fails(flight_sql.Error, ["42P01"], lambda: ingest(sent, "append"))
    assert ingest(sent, "create") == rows
    assert value(connection, "SELECT sum(id) FROM shop.sent") == rows * (rows - 1) // 2
    assert value(connection, "SELECT count(DISTINCT name) FROM shop.sent") == 1000
    fails(flight_sql.Error, ["shop.sent exists already", "42P07"], lambda: ingest(sent, "create"))
    assert ingest(sent.slice(0, 10).to_reader(), "replace") == 10
    assert value(connection, "SELECT count(*) FROM shop.sent") == 10
    assert ingest(sent.slice(10, 5).select(["name", "id"]), "append") == 5
    assert ingest(sent.slice(15, 5), "create_append") == 5
    assert value(connection, "SELECT count(*) || '/' || count(at) || '/' || sum(id) FROM shop.sent") == "20/15/190"
    # The driver sends nothing at all unless there is a batch.
    assert ingest(sent.to_batches()[0].slice(0, 0), "replace") == 0
    assert value(connection, "SELECT count(*) FROM shop.sent") == 0


def waits_for_core(pool):
    """Asks until an answer does not come, because the only core is taken; returns what is awaited."""
    while True:
        asked = pool.submit(lambda: value(connect(), "SELECT unnest([1])"))
        done, _ = concurrent.futures.wait([asked], timeout=1)
        if not done:
            return asked


def field(number, data):
    """A field of a protobuf message that has a length."""
    length = len(data)
    varint = b""
    while length > 127:
        varint += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + data


def command(name, message):
    url = f"type.googleapis.com/arrow.flight.protocol.sql.{name}"
    return field(1, url.encode()) + field(2, message)


class Driver:
    """A query that the driver cancels."""

    def __init__(self):
        self.connection = connect()
        self.cursor = self.connection.cursor()

    def read(self):
        self.cursor.execute(ENDLESS)
        self.cursor.fetchall()

    def cancel(self):
        self.cursor.adbc_cancel()


class Action:
    """A query that is cancelled by an action of another connection."""

    def __init__(self, action):
        self.action = action
        self.client = pyarrow.flight.connect(address)
        descriptor = pyarrow.flight.FlightDescriptor.for_command(
            command("CommandStatementQuery", field(1, ENDLESS.encode()))
        )
        self.info = self.client.get_flight_info(descriptor)

    def read(self):
        # Unlike this, `read_all` takes a cancelled call for an interrupted program.
        self.client.do_get(self.info.endpoints[0].ticket).read_chunk()

    def cancel(self):
        body = field(1, self.info.serialize())
        if self.action == "CancelQuery":
            body = command("ActionCancelQueryRequest", body)
        with pyarrow.flight.connect(address) as client:
            assert len(list(client.do_action((self.action, body)))) == 1


class Process:
    """A query whose client is killed. It writes a table, so that the request has work to give up."""

    def __init__(self):
        create = f"CREATE TABLE shop.never AS {ENDLESS}"
        program = "import sys, adbc_driver_flightsql.dbapi as d; d.connect(sys.argv[1]).cursor().execute(sys.argv[2])"
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, address, create])

    def read(self):
        raise RuntimeError(f"it has ended: {self.process.wait()}")

    def cancel(self):
        self.process.kill()


def cancels():
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        for start in [Driver, lambda: Action("CancelFlightInfo"), lambda: Action("CancelQuery"), Process]:
            query = start()
            running = pool.submit(query.read)
            asked = waits_for_core(pool)
            assert not running.done(), running.exception()
            began = time.monotonic()
            query.cancel()
            assert asked.result(timeout=30) == 1
            seconds = time.monotonic() - began
            assert seconds < 2, f"{type(query).__name__}: the executor was free after {seconds:.1f} s"
            error = running.exception(timeout=30)
            print(f"{type(query).__name__}: free after {seconds:.2f} s: {error}")
            if isinstance(query, Action):
                assert "57014" in str(error), error
    with connect() as connection:
        ended = "SELECT count(*) FROM system.queries WHERE state = 'cancelled' AND statement LIKE '%300000%'"
        assert value(connection, ended) >= 3


with connect() as connection:
    writes_and_reads(connection)
    binds(connection)
    browses(connection)
    trains(connection)
    names_errors(connection)
    lists_queries(connection)
    has_files_of_its_own(connection)
    ingests(connection)
at_the_same_time()
cancels()
with connect() as connection:
    takes_long_statements(connection)
print("done")
finish()
