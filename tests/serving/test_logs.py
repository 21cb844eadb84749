"""The log of each target's real server: JSON only, one line per request."""

import asyncio
import dataclasses
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.load import Load
from ..harness.project import Project
from ..harness.server import Server, free_port, serve
from ..harness.wait import wait_until

# Additional routes that log, fail and count.
SAYING = """
import logging
import warnings

from fastapi import Request

from {package}.app import create_app

app = create_app()


@app.get("/says")
def says() -> None:
    logging.getLogger("shop").info("token=hunter2", extra={{"Cookie": "hunter2", "order": 7}})
    warnings.warn("careful", stacklevel=1)


@app.get("/breaks")
async def breaks() -> None:
    raise RuntimeError("password=hunter2")


@app.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())
"""


@pytest.fixture
def saying(project: Project, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "saying.py").write_text(SAYING.format(package=project.package))
    env = {"PYTHONPATH": str(tmp_path), "METRICS_PORT": str(free_port()), "WEB_CONCURRENCY": "1"}
    with serve(project, tmp_path / "log", "saying:app", env) as server:
        yield dataclasses.replace(server, metrics_port=int(env["METRICS_PORT"]))


def test_each_request_logs_one_line_of_json(saying: Server) -> None:
    saying.get("/large-response?size_kb=1&token=hunter2")
    saying.get("/nowhere/hunter2")
    saying.get("/health/live")
    saying.stop()

    found, missing = saying.requests
    assert list(found) == [
        *("timestamp", "level", "logger", "event", "method", "route", "status"),
        *("duration_ms", "bytes", "client", "request_id"),
    ]
    assert (found["method"], found["route"], found["status"]) == ("GET", "/large-response", 200)
    assert found["bytes"] > 1024
    assert found["client"] == "127.0.0.1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", found["timestamp"])
    assert (missing["route"], missing["status"]) == ("unmatched", 404)
    assert "hunter2" not in saying.log

    loggers = {event["logger"] for event in saying.events}
    assert "uvicorn.error" in loggers
    assert "Finished server process" in saying.log


def test_log_lines_of_a_request_have_its_id_and_no_secret(saying: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    response = saying.get("/says", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    saying.stop()

    output, warned, line = (e for e in saying.events if e.get("trace_id") == trace)
    assert {e["request_id"] for e in (output, warned, line)} == {response.headers["x-request-id"]}
    assert (output["event"], output["Cookie"], output["order"]) == ("token=***", "***", 7)
    assert "careful" in warned["event"]


def test_unhandled_error_is_logged_once_with_its_traceback(saying: Server) -> None:
    response = saying.get("/breaks")
    saying.stop()

    errors = [e for e in saying.events if "exception" in e]
    assert response.status == 500
    assert [e["request_id"] for e in errors] == [response.headers["x-request-id"]]
    assert errors[0]["exception"].endswith("RuntimeError: password=***")
    assert saying.log.count("Traceback") == 1
    assert [line["status"] for line in saying.requests] == [500]


@pytest.mark.parametrize(
    ("trust", "taken"), [("10.0.0.0/8", False), ("127.0.0.0/8", True)], ids=["stranger", "proxy"]
)
def test_request_id_is_accepted_from_the_trusted_proxy_only(
    project: Project, tmp_path: Path, trust: str, taken: bool
) -> None:
    clients = ("203.0.113.9", "203.0.113.9:5678")  # some proxies send the port too
    # One worker: another one that is still starting would ignore SIGTERM.
    env = {"FORWARDED_ALLOW_IPS": trust, "WEB_CONCURRENCY": "1"}
    with serve(project, tmp_path / "log", env=env) as server:
        for client in clients:
            sent = {"X-Request-ID": "an-id-that-was-sent", "X-Forwarded-For": client}
            response = server.get("/nowhere", **sent)
            assert (response.headers["x-request-id"] == "an-id-that-was-sent") is taken
        server.stop()

    assert [line["client"] == "203.0.113.9" for line in server.requests] == [taken, taken]
    assert [line["request_id"] == "an-id-that-was-sent" for line in server.requests] == [taken] * 2


def test_sigterm_under_load_loses_no_line(project: Project, tmp_path: Path) -> None:
    async def load_and_stop(server: Server) -> int:
        load = Load(server.port, ["/large-response?size_kb=1"])
        await load.answered(1_000)
        await asyncio.to_thread(server.stop)
        return (await load.stop()).answered

    with serve(project, tmp_path / "log") as server:
        answered = asyncio.run(load_and_stop(server))

        assert len(server.requests) == answered


def test_body_without_a_content_length_is_limited(saying: Server) -> None:
    half = b"x" * 2**19
    fits = saying.request("POST", "/length", iter([half, half]))
    exceeds = saying.request("POST", "/length", iter([half, half, b"x"]))

    assert (fits.status, fits.body) == (200, b"1048576")
    assert exceeds.status == 413
    assert exceeds.headers["content-type"] == "application/problem+json"


def test_metrics_of_loop_process_and_build_are_exposed(saying: Server) -> None:
    metrics = dataclasses.replace(saying, port=saying.metrics_port)
    names = (
        *("event_loop_lag_seconds_count", "process_cpu_seconds_total", "app_info"),
        *("process_resident_memory_bytes", "process_open_fds", "http_requests_in_flight"),
    )

    def sampled() -> bool:  # the first time after a second
        text = metrics.get("/metrics").body.decode()
        return re.search("^event_loop_lag_seconds_count [1-9]", text, re.M) is not None

    wait_until(sampled, "sampled")
    text = metrics.get("/metrics").body.decode()
    values = {
        name: float(value) for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", text, re.M)
    }

    assert set(names) <= values.keys()
    assert values["process_resident_memory_bytes"] > 20 * 2**20
    assert 0 < values["process_cpu_seconds_total"] < 60
    assert values["process_open_fds"] > 3
    assert re.search(r'app_info\{python="3\.\d+\.\d+",version="0\.1\.0"\} 1\.0', text)


@pytest.mark.parametrize("target", ["vm"], indirect=True)
def test_log_format_survives_a_reload(saying: Server) -> None:
    saying.process.send_signal(signal.SIGHUP)
    saying.wait_for_log("Hang up")
    saying.wait_for_log("Finished server process")
    saying.stop()

    events = [event["event"] for event in saying.events]
    assert events.count("Handling signal: hup") == 1
    assert "Shutting down: Master" in events
