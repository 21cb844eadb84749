"""Traces over the real servers: a span of each request is exported, including the last ones."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness.project import Project
from ..harness.server import Server, free_port, launch, serve
from ..harness.wait import wait_until

REQUESTS = 60
ONE_WORKER = {"WEB_CONCURRENCY": "1"}
"""Another one that is still starting would ignore SIGTERM, so that the server is killed."""

# A collector that prints one line per span. It has one thread, so that no lines are interleaved.
COLLECTOR = """
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {a.key: a.value.string_value for a in batch.resource.attributes}
            for scope in batch.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "name": span.name,
                        "trace_id": span.trace_id.hex(),
                        "span_id": span.span_id.hex(),
                        "service": resource["service.name"],
                        "environment": resource["deployment.environment.name"],
                        "sender": self.client_address[1],
                    }), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Collector)
print("collects", flush=True)
server.serve_forever()
"""

# Sets a provider after the application was created, and prints its spans.
PROVIDER = """
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from {package}.app import create_app

app = create_app()
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with TestClient(app) as client:
    client.get("/large-response?size_kb=1")
print("spans:", *(span.name for span in exporter.get_finished_spans()), sep="\\n")
"""


@pytest.fixture(scope="module")
def traced(render: Render, target: str) -> Project:
    """The service with tracing."""
    project = render(deployment=target, traces=True)
    project.uv("sync", "--quiet")
    return project


@contextmanager
def collector(project: Project, directory: Path) -> Iterator[Server]:
    """Yield a collector on a free port."""
    port = free_port()
    script = directory / "collector.py"
    script.write_text(COLLECTOR)
    command = [project.program("python"), str(script), str(port)]
    with launch(project, command, directory / "collector.log", port) as server:
        server.wait_for_log("collects")
        yield server


def exporting(port: int, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **more}


def spans(collector: Server) -> list[dict[str, str]]:
    return [json.loads(line) for line in collector.log.splitlines()[1:]]


def lines_of_requests(server: Server) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("route") == "/large-response"]


def test_every_request_of_every_worker_has_a_span(
    traced: Project, target: str, tmp_path: Path
) -> None:
    """Most spans are exported at shutdown: a batch would wait for 5 s."""
    workers = {"kubernetes": 1, "vm": 3}[target]
    with collector(traced, tmp_path) as received:
        env = exporting(received.port, WEB_CONCURRENCY=str(workers))
        with serve(traced, tmp_path / "log", env=env) as server:
            started = "Application startup complete"
            wait_until(lambda: server.log.count(started) == workers, "started", lambda: server.log)
            with ThreadPoolExecutor(8) as clients:  # so that several workers serve requests
                paths = ["/large-response?size_kb=900"] * REQUESTS
                assert {response.status for response in clients.map(server.get, paths)} == {200}
            server.stop()
        arrived = spans(received)

    assert [span["name"] for span in arrived] == ["GET /large-response"] * REQUESTS
    assert {span["service"] for span in arrived} == {traced.answers["project_slug"]}
    assert {span["environment"] for span in arrived} == {"production"}
    assert len({span["sender"] for span in arrived}) >= min(workers, 2)
    logged = {(line["trace_id"], line["span_id"]) for line in lines_of_requests(server)}
    assert logged == {(span["trace_id"], span["span_id"]) for span in arrived}
    assert len(logged) == REQUESTS


def test_trace_of_another_service_is_continued(traced: Project, tmp_path: Path) -> None:
    trace_id = os.urandom(16).hex()
    with collector(traced, tmp_path) as received:
        with serve(traced, tmp_path / "log", env=exporting(received.port, **ONE_WORKER)) as server:
            parent = f"00-{trace_id}-{'1' * 16}-01"
            server.get("/large-response?size_kb=1", traceparent=parent)
            server.stop()
        [span] = spans(received)

    assert span["trace_id"] == trace_id
    assert [line["trace_id"] for line in lines_of_requests(server)] == [trace_id]


def test_unreachable_collector_does_not_delay_requests_or_shutdown(
    traced: Project, target: str, tmp_path: Path
) -> None:
    with serve(traced, tmp_path / "log", env=exporting(free_port(), **ONE_WORKER)) as server:
        assert server.get("/large-response?size_kb=1").status == 200

        code = server.stop()

    assert code == (-15 if target == "kubernetes" else 0)
    assert "SIGKILL" not in server.log
    assert "Traceback" not in server.log


def test_no_endpoint_records_no_spans(traced: Project, tmp_path: Path) -> None:
    with serve(traced, tmp_path / "log", env=ONE_WORKER) as server:
        assert server.get("/large-response?size_kb=1").status == 200
        server.stop()

    [line] = lines_of_requests(server)
    assert "span_id" not in line


@pytest.mark.parametrize("traces", [True, False])
def test_provider_set_by_the_service_receives_a_span_per_request(
    render: Render, tmp_path: Path, traces: bool
) -> None:
    project = render(deployment="kubernetes", traces=traces)
    project.uv("sync", "--quiet")
    if not traces:
        version = "from importlib.metadata import version; print(version('opentelemetry-api'))"
        api = project.run(project.program("python"), "-c", version).stdout.strip()
        sdk = f"opentelemetry-sdk=={api}"
        project.uv("pip", "install", "--quiet", "--target", str(tmp_path), sdk)
    (tmp_path / "provider.py").write_text(PROVIDER.format(package=project.package))

    result = project.run(
        project.program("python"),
        str(tmp_path / "provider.py"),
        env={"PYTHONPATH": str(tmp_path)},
    )

    assert "GET /large-response" in result.stdout.partition("spans:")[2].splitlines()
