"""A service with PostgreSQL under its real server: transactions, pool, failures."""

import http.client
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Render
from ..harness import postgresql
from ..harness.database_routes import ROUTES, SYNCHRONOUS
from ..harness.postgresql import PostgreSQL
from ..harness.project import Project
from ..harness.server import (
    START_SECONDS,
    HttpResponse,
    Server,
    free_port,
    launch,
    serve,
    start_command,
)
from ..harness.template import TARGETS
from ..harness.wait import wait_until

R = 5  # request_timeout_seconds
HOLD = 3.75
"""Seconds that a request holds a connection: more than others wait for one, R / 2, and below R."""
POOL = 3
DATABASE = "service"

Start = Callable[..., Any]


@pytest.fixture(scope="module", params=TARGETS)
def service(request: pytest.FixtureRequest, render: Render) -> Project:
    """A service with a database and the routes of this test, with its virtual environment."""
    project = render(
        deployment=request.param, database="postgresql", request_timeout_seconds=R, traces=False
    )
    project.uv("sync", "--quiet")
    python = project.program("python")
    project.uv("pip", "install", "--quiet", "--python", python, "psycopg[binary]>=3.3.9")
    routes = (ROUTES + SYNCHRONOUS).replace("PACKAGE", project.package)
    (project.path / "faults.py").write_text(routes)
    return project


@pytest.fixture(scope="module")
def database(service: Project) -> Iterator[PostgreSQL]:
    """A server with a migrated database."""
    with postgresql.server(service) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        migrate(service, server)
        yield server


def migrate(
    service: Project, server: PostgreSQL, database: str = DATABASE, check: bool = True
) -> subprocess.CompletedProcess[str]:
    command = (service.program("python"), "-m", f"{service.package}.serving.database", "migrate")
    return service.run(*command, env={"DATABASE_URL": server.url_of(database)}, check=check)


@pytest.fixture
def start(service: Project, database: PostgreSQL, tmp_path: Path) -> Start:
    """Start the service on the database, with one process and a pool of `POOL`."""
    database.sql("TRUNCATE notes", DATABASE)

    @contextmanager
    def start(**environment: str) -> Iterator[Server]:
        env = {
            "DATABASE_URL": database.url_of(DATABASE),
            "DATABASE_POOL_SIZE": str(POOL),
            "DATABASE_CONNECTIONS": "1000",
            "WEB_CONCURRENCY": "1",
            "PYTHONPATH": str(service.path),
            **environment,
        }
        with serve(service, tmp_path / "log", "faults:app", env) as server:
            yield server

    return start


def texts(database: PostgreSQL) -> list[str]:
    return database.sql("SELECT text FROM notes ORDER BY id", DATABASE)


def at_once(request: Callable[[], HttpResponse], number: int) -> list[HttpResponse]:
    with ThreadPoolExecutor(number) as threads:
        return [future.result() for future in [threads.submit(request) for _ in range(number)]]


def test_created_note_is_returned_by_get(start: Start, database: PostgreSQL) -> None:
    with start() as server:
        body = b'{"text": "milk"}'
        created = server.request("POST", "/notes", body, **{"Content-Type": "application/json"})

        assert created.status == 201
        assert texts(database) == ["milk"]
        assert server.get("/mounted/one").body == b"1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/both?wait=30", 504),
        ("/both?sleep=30", 504),
        ("/fail/409", 409),
        ("/fail/500", 500),
        ("/unfit", 500),
    ],
)
def test_error_or_deadline_rolls_back_the_transaction(
    start: Start, database: PostgreSQL, path: str, status: int
) -> None:
    with start() as server:
        assert server.request("POST", path).status == status

        wait_until(lambda: server.get("/pool").body.startswith(b'{"in_use":0,'), "unused")
        assert texts(database) == []
        assert server.request("POST", "/both").status == 200
        assert texts(database) == ["debit", "credit"]


def test_statement_timeout_ends_a_statement_and_keeps_the_connection(
    start: Start, database: PostgreSQL
) -> None:
    with start(DATABASE_POOL_SIZE="1") as server:
        server.get("/hold?seconds=0")
        before = pids(database)

        assert server.request("POST", "/both?sleep=30").status == 504

        assert server.get("/hold?seconds=0").status == 200
        assert pids(database) == before
        assert "A statement was cancelled at its timeout" in server.log


def pids(database: PostgreSQL) -> list[str]:
    query = (
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()"
    )
    return database.sql(query)


def test_failed_commit_is_a_500_and_slow_commit_ends_before_the_response(
    start: Start, database: PostgreSQL
) -> None:
    database.sql(
        """
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep(0.3);
            IF NEW.text = 'refused' THEN RAISE EXCEPTION 'refused'; END IF;
            RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION late()""",
        DATABASE,
    )
    try:
        with start() as server:
            headers = {"Content-Type": "application/json"}
            refused = server.request("POST", "/notes", b'{"text": "refused"}', **headers)
            assert refused.status == 500
            assert texts(database) == []

            assert server.request("POST", "/notes", b'{"text": "slow"}', **headers).status == 201
            assert texts(database) == ["slow"]
    finally:
        database.sql("DROP FUNCTION late CASCADE", DATABASE)


def test_commit_that_ends_after_the_deadline_is_not_a_504(
    start: Start, database: PostgreSQL
) -> None:
    database.sql(
        f"""
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep({R / 5}); RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION late()""",
        DATABASE,
    )
    try:
        with start() as server:
            assert server.request("POST", f"/both?wait={R - 1}").status == 200
            assert texts(database) == ["debit", "credit"]
    finally:
        database.sql("DROP FUNCTION late CASCADE", DATABASE)


def test_error_of_a_statement_is_logged_without_its_parameters(start: Start) -> None:
    with start() as server:
        assert server.request("POST", "/twice?secret=hunter2").status == 500

        server.wait_for_log("duplicate key value")
        assert "INSERT INTO notes" in server.log
        lines = [line for line in server.log.splitlines() if "/twice" not in line]
        assert not any("hunter2" in line for line in lines), lines


def test_session_closed_by_the_route_is_not_committed_again(start: Start) -> None:
    with start() as server:
        assert server.get("/closed").status == 200


def test_session_used_after_its_end_is_an_error_and_holds_no_connection(start: Start) -> None:
    with start() as server:
        assert server.request("POST", "/after").status == 200

        server.wait_for_log("This Session has been permanently closed")
        assert b'"in_use":0' in server.get("/pool").body


def test_full_pool_is_a_503_with_retry_after(start: Start) -> None:
    with start() as server:
        at_once(lambda: server.get("/hold?seconds=0.2"), POOL)  # opens the connections
        answers = at_once(lambda: server.get(f"/hold?seconds={HOLD}"), POOL + 1)

        assert Counter(response.status for response in answers) == {200: POOL, 503: 1}
        [full] = [response for response in answers if response.status == 503]
        assert full.headers["retry-after"] == "1"
        assert b"All database connections are in use" in full.body


def test_stream_holds_no_connection(start: Start) -> None:
    with start(DATABASE_POOL_SIZE="1") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/stream?seconds=2")
        response = connection.getresponse()
        assert response.readline() == b"begin\n"

        assert b'"in_use":0' in server.get("/pool").body
        assert server.get("/hold?seconds=0").status == 200
        assert response.read() == b"end\n"
        connection.close()


def test_connections_never_exceed_the_pool_size(start: Start, database: PostgreSQL) -> None:
    with start() as server:
        most = 0
        finished = threading.Event()

        def watch() -> None:
            nonlocal most
            while not finished.is_set():
                most = max(most, len(pids(database)))

        watching = threading.Thread(target=watch)
        watching.start()
        at_once(lambda: server.get("/hold?seconds=0.05"), 30)
        finished.set()
        watching.join()

        assert max(most, len(pids(database))) == POOL


def test_synchronous_sessions_do_not_deadlock(start: Start) -> None:
    """The example of docs/how-to/database.md, with fewer threads than requests."""
    with start(THREADS="3") as server:
        answers = at_once(lambda: server.get("/sync"), 30)

        assert Counter(response.status for response in answers) == {200: 30}


def test_pool_metrics_count_connections_in_use_and_waiting_requests(start: Start) -> None:
    port = free_port()
    with start(METRICS_PORT=str(port)) as server, ThreadPoolExecutor(POOL + 2) as threads:
        holding = [threads.submit(server.get, f"/hold?seconds={HOLD}") for _ in range(POOL + 2)]

        def metric(name: str) -> float:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
            return float(match[1]) if match else -1

        wait_until(lambda: metric("database_pool_in_use") == POOL, "in use")
        assert metric("database_pool_size") == POOL
        for future in holding:
            future.result()
        wait_until(lambda: metric("database_pool_wait_seconds_count") >= POOL + 2, "counted")
        assert metric("database_pool_wait_seconds_sum") > 1
        wait_until(lambda: metric("database_pool_in_use") == 0, "unused")


def test_server_down_at_start_is_reported_and_used_when_it_is_up(
    start: Start, database: PostgreSQL
) -> None:
    database.stop()
    try:
        with start() as server:
            ready = server.get("/health/ready")
            assert ready.status == 200
            assert b'"database":"failed"' in ready.body
            refused = server.get("/notes")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert server.log.count("No connection to the database: ") == 1

            database.start()

            wait_until(lambda: server.get("/notes").status == 200, "served")
            wait_until(lambda: b'"database":"ok"' in server.get("/health/ready").body, "ok")
    finally:
        if not running(database):
            database.start()


def running(database: PostgreSQL) -> bool:
    return (database.data / "postmaster.pid").exists()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_under_load_fails_at_most_one_request_per_connection(
    start: Start, database: PostgreSQL, mode: str
) -> None:
    with start() as server:
        statuses: Counter[int] = Counter()
        stopped, over = threading.Event(), threading.Event()

        def send_requests() -> None:
            while not over.is_set():
                if stopped.is_set():
                    time.sleep(0.01)
                    continue
                statuses[server.request("POST", "/both").status] += 1

        clients = [threading.Thread(target=send_requests) for _ in range(POOL)]
        for asker in clients:
            asker.start()
        wait_until(lambda: statuses[200] > 50, "served")
        stopped.set()  # no new requests while the server is down
        database.stop(mode)
        database.start()
        before = statuses[200]
        stopped.clear()
        wait_until(lambda: statuses[200] > before + 50, "served again")
        over.set()
        for asker in clients:
            asker.join()

        failed = sum(number for status, number in statuses.items() if status != 200)
        assert failed <= POOL
        assert set(statuses) <= {200, 503}
        both = Counter(texts(database))
        assert both["debit"] == both["credit"] >= statuses[200]


def test_hanging_server_is_a_504_or_503_and_opens_no_more_connections(
    start: Start, database: PostgreSQL
) -> None:
    with start() as server:
        server.get("/hold?seconds=0")
        with database.hung():
            answers = at_once(lambda: server.get("/notes"), POOL + 2)
            assert {response.status for response in answers} <= {503, 504}
            assert server.get("/health/live").status == 200

        wait_until(lambda: server.get("/notes").status == 200, "served")
        wait_until(lambda: len(pids(database)) <= POOL, "closed")


def test_server_refusing_connections_is_a_503(start: Start, database: PostgreSQL) -> None:
    with start() as server:
        database.sql(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 0")
        database.sql("CREATE ROLE service LOGIN")
        try:
            url = database.url_of(DATABASE).replace("postgres@", "service@")
            with start(DATABASE_URL=url) as limited:  # the limit does not apply to superusers
                assert limited.get("/notes").status == 503
        finally:
            database.sql(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1")
            database.sql("DROP ROLE service")
        assert server.get("/notes").status == 200


def test_connections_are_closed_when_the_service_stops(start: Start, database: PostgreSQL) -> None:
    with start() as server:
        at_once(lambda: server.get("/hold?seconds=0.1"), POOL)
        server.stop()

        wait_until(lambda: pids(database) == [], "closed")
        assert "Application shutdown complete" in server.log
        assert "Traceback" not in server.log


def refused_start(service: Project, log: Path, **environment: str) -> tuple[int, list[str]]:
    """Return exit status and log lines of a service that does not start."""
    port = free_port()
    command, options = start_command(service, f"{service.package}.app:app", port)
    env = {"ENVIRONMENT": "production", "WEB_CONCURRENCY": "1", **options, **environment}
    with launch(service, command, log, port, env) as server:
        status = server.process.wait(START_SECONDS)
    return status, [line for line in server.log.splitlines() if "DATABASE" in line]


def test_too_old_schema_stops_the_start_with_one_line(
    service: Project, database: PostgreSQL, tmp_path: Path
) -> None:
    database.sql("CREATE DATABASE empty")

    status, lines = refused_start(service, tmp_path / "log", DATABASE_URL=database.url_of("empty"))

    assert status == 3
    assert len(lines) == 1
    assert "the schema is at no migration, this version needs 0001" in lines[0]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_newer_schema_is_served_and_left_unchanged_by_a_migration(
    service: Project, start: Start, database: PostgreSQL
) -> None:
    database.sql("UPDATE alembic_version SET version_num = '9999'", DATABASE)
    try:
        assert "newer than this version" in migrate(service, database).stdout
        with start() as server:
            assert server.get("/notes").status == 200
            assert b'"database":"ok"' in server.get("/health/ready").body
    finally:
        database.sql("UPDATE alembic_version SET version_num = '0001'", DATABASE)


@pytest.mark.parametrize("url", ["", "postgresql://user:hunter2@db:port/orders"])
def test_invalid_address_prints_one_line_without_its_password(
    service: Project, tmp_path: Path, url: str
) -> None:
    status, lines = refused_start(service, tmp_path / "log", DATABASE_URL=url)

    assert status == 3
    assert len(lines) == 1
    assert lines[0].startswith("DATABASE_URL: Value error, postgresql://USER:PASSWORD@HOST:PORT/")
    log = (tmp_path / "log").read_text()
    assert "hunter2" not in log
    assert "Traceback" not in log


def test_pools_above_the_connection_budget_stop_the_start(service: Project, tmp_path: Path) -> None:
    status, lines = refused_start(
        service,
        tmp_path / "log",
        DATABASE_URL="postgresql://db/orders",
        DATABASE_POOL_SIZE="100",
    )

    assert status == 3
    assert len(lines) == 1
    assert lines[0].startswith("DATABASE_POOL_SIZE: Value error, 100 x ")
    assert lines[0].endswith("above DATABASE_CONNECTIONS=60")


def test_check_prints_the_connection_sum_and_no_password(service: Project) -> None:
    result = service.run(
        *(service.program("python"), "-m", f"{service.package}.serving"),
        env={"DATABASE_URL": "postgresql://user:hunter2@db/orders", "WEB_CONCURRENCY": "4"},
        check=False,
    )

    assert "hunter2" not in result.stdout
    [line] = [text for text in result.stdout.splitlines() if text.startswith("DATABASE_POOL_SIZE=")]
    assert re.fullmatch(r"DATABASE_POOL_SIZE=\d+ # \d+ x .+ \+ 4 in reserve = \d\d of 60", line), (
        line
    )


Migration = Callable[..., None]


@pytest.fixture
def migration(service: Project, database: PostgreSQL) -> Iterator[Migration]:
    """Write a second migration; it is deleted and reverted afterwards."""
    directory = service.path / f"src/{service.package}/migrations"
    database.sql("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
    database.sql(f"CREATE DATABASE migrated TEMPLATE {DATABASE}")
    written = []

    def write(*statements: str, revision: str = "0002", after: str = "0001") -> None:
        body = "\n".join(f"    {statement}" for statement in statements)
        file = directory / f"{revision}_test.py"
        file.write_text(
            f'from alembic import op\nrevision = "{revision}"\ndown_revision = "{after}"\n'
            f"def upgrade() -> None:\n{body}\n"
        )
        written.append(file)

    yield write
    for file in written:
        file.unlink()


def test_failed_migration_is_rolled_back_and_prints_its_error(
    service: Project, database: PostgreSQL, migration: Migration
) -> None:
    migration('op.execute("CREATE TABLE half (id int)")', 'op.execute("SELECT 1 / 0")')

    result = migrate(service, database, "migrated", check=False)

    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].endswith("division by zero: SELECT 1 / 0")
    assert "Traceback" not in result.stdout
    assert database.sql("SELECT to_regclass('half')", "migrated") == [""]
    assert database.sql("SELECT version_num FROM alembic_version", "migrated") == ["0001"]


def test_migration_of_a_locked_table_is_retried(
    service: Project, database: PostgreSQL, migration: Migration
) -> None:
    migration('op.execute("ALTER TABLE notes ADD COLUMN author text")')
    held = "SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    with ThreadPoolExecutor(1) as threads:
        threads.submit(database.sql, "BEGIN; LOCK TABLE notes; SELECT pg_sleep(600)", "migrated")
        wait_until(lambda: database.sql(held, "migrated") != [], "locked")
        [pid] = database.sql(held, "migrated")
        variables = {"DATABASE_URL": database.url_of("migrated"), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [service.program("python"), "-m", f"{service.package}.serving.database", "migrate"],
            cwd=service.path,
            env=service.variables(variables),
            stdout=subprocess.PIPE,
            text=True,
        ) as migrating:
            assert migrating.stdout
            first = migrating.stdout.readline()
            database.sql(f"SELECT pg_terminate_backend({pid})", "migrated")
            rest = migrating.stdout.read().splitlines()

    assert first == "a table is locked: attempt 1 of 10\n"
    assert rest[-1] == "the schema is at 0002"
    assert migrating.returncode == 0
    assert database.sql("SELECT author FROM notes", "migrated") == []


def test_index_is_built_concurrently_beside_a_longer_transaction(
    service: Project, database: PostgreSQL, migration: Migration
) -> None:
    """The index waits for it for longer than a lock."""
    migration(
        "with op.get_context().autocommit_block():",
        '    op.execute("CREATE INDEX CONCURRENTLY late ON notes (created_at)")',
    )
    sleeping = (
        "SELECT 1 FROM pg_stat_activity"
        " WHERE query LIKE '%pg_sleep(6)%' AND pid <> pg_backend_pid()"
    )
    with ThreadPoolExecutor(1) as threads:
        threads.submit(database.sql, "BEGIN; SELECT pg_sleep(6)", "migrated")
        wait_until(lambda: database.sql(sleeping) != [], "sleeping")
        output = migrate(service, database, "migrated").stdout

    assert output.splitlines()[-1] == "the schema is at 0002"
    assert "locked" not in output


def test_concurrent_migrations_run_one_after_the_other(
    service: Project, database: PostgreSQL, migration: Migration
) -> None:
    """Including one without a transaction, which waits for the snapshots of all others."""
    migration(
        'op.execute("SELECT pg_sleep(3)")',
        "with op.get_context().autocommit_block():",
        '    op.execute("CREATE INDEX CONCURRENTLY late ON notes (created_at)")',
    )
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(migrate, service, database, "migrated") for _ in range(2)]
        output = [migration.result().stdout for migration in both]

    assert sorted("applied 0002" in text for text in output) == [False, True]
    assert all(text.splitlines()[-1] == "the schema is at 0002" for text in output)


def test_two_migrations_with_the_same_parent_are_refused_with_one_line(
    service: Project, database: PostgreSQL, migration: Migration
) -> None:
    migration("pass")
    migration("pass", revision="0003")

    result = migrate(service, database, "migrated", check=False)

    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.startswith("migrate: ")
    assert "0002" in result.stdout


def test_migration_without_a_server_prints_one_line(service: Project, database: PostgreSQL) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/orders"
    command = (service.program("python"), "-m", f"{service.package}.serving.database", "migrate")

    result = service.run(*command, env={"DATABASE_URL": url}, check=False)

    assert result.returncode == 1
    waits, line = result.stdout.splitlines()
    assert waits == "no connection yet: 6 attempts are made"
    assert line.startswith("migrate: no connection: ")
    assert "hunter2" not in result.stdout
