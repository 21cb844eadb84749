"""Compression over the real servers: clients can decompress every response."""

import gzip
import http.client
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import brotli
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..harness.project import Project
from ..harness.server import HttpResponse, Server, serve

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DECODE: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstd.decompress,
    "br": brotli.decompress,
    "gzip": gzip.decompress,
}
PATH = "/large-response?size_kb=8"

# Routes with the responses of typical services.
ROUTES = """
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from {package}.app import create_app

app = create_app()


@app.get("/stream")
async def stream(media_type: str) -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        yield "data: first\\n\\n"
        await asyncio.Event().wait()  # until the client disconnects
        yield "data: second\\n\\n"

    return StreamingResponse(chunks(), media_type=media_type)


@app.api_route("/file", methods=["GET", "HEAD"])
async def file() -> FileResponse:
    return FileResponse(Path(__file__).with_name("lines.txt"))


@app.get("/empty/{{status}}")
async def empty(status: int) -> Response:
    return Response(status_code=status, media_type="text/plain")
"""


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with these routes, in one process, so that they share events."""
    directory = tmp_path_factory.mktemp("compression")
    (directory / "routes.py").write_text(ROUTES.format(package=project.package))
    (directory / "lines.txt").write_text("a line\n" * 1000)
    env = {"PYTHONPATH": str(directory), "WEB_CONCURRENCY": "1"}
    with serve(project, directory / "log", "routes:app", env) as server:
        yield server


@pytest.fixture(scope="module")
def plain(server: Server) -> bytes:
    """Return the body unchanged."""
    return server.get(PATH, **{"Accept-Encoding": "identity"}).body


def decoded(answer: HttpResponse) -> bytes:
    coding = answer.headers.get("content-encoding")
    return DECODE[coding](answer.body) if coding else answer.body


def readings(weights: dict[str, str]) -> set[str]:
    """Return the codings that RFC 9110 lets the server choose from; "identity" for none."""
    heard = {name.lower(): float(weight) for name, weight in weights.items()}
    others = heard.get("*", 0.0)
    offered = {name: heard.get(name, others) for name in DECODE}
    offered["identity"] = heard.get("identity", heard.get("*", 0.0005))  # below all listed codings
    best = max(offered.values())
    if best == 0:
        return {"identity"}  # no acceptable coding: uncompressed
    return {name for name, weight in offered.items() if weight == best}


names = st.sampled_from(["zstd", "br", "gzip", "GZip", "identity", "*", "deflate", "x-unknown"])
weights = st.sampled_from(["0", "0.000", "0.001", "0.5", "0.75", "1", "1.000"])
thorough = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@thorough
@given(st.lists(st.tuples(names, weights), unique_by=lambda item: item[0].lower()))
def test_preferred_coding_of_the_client_is_used(
    server: Server, plain: bytes, accepted: list[tuple[str, str]]
) -> None:
    header = ", ".join(f"{name};q={weight}" for name, weight in accepted)

    response = server.get(PATH, **{"Accept-Encoding": header})

    assert response.headers.get("content-encoding", "identity") in readings(dict(accepted))
    assert decoded(response) == plain
    assert response.headers["vary"] == "Accept-Encoding"


@thorough
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\t"), max_size=300))
def test_any_accept_encoding_is_handled(server: Server, plain: bytes, header: str) -> None:
    response = server.get(PATH, **{"Accept-Encoding": header})

    assert response.status == 200
    assert decoded(response) == plain


@pytest.mark.parametrize("coding", DECODE)
@pytest.mark.parametrize("size_kb", [1, 900])
def test_bodies_of_any_size_can_be_read(server: Server, coding: str, size_kb: int) -> None:
    path = f"/large-response?size_kb={size_kb}"
    packed = server.get(path, **{"Accept-Encoding": coding})

    assert packed.headers["content-encoding"] == coding
    assert decoded(packed) == server.get(path).body


@pytest.mark.parametrize("coding", ["zstd", "br"])
def test_zstd_and_brotli_are_smaller_than_gzip(server: Server, coding: str) -> None:
    sizes = {
        name: len(server.get("/large-response?size_kb=900", **{"Accept-Encoding": name}).body)
        for name in (coding, "gzip")
    }

    assert sizes[coding] < sizes["gzip"]


def first_of(server: Server, media_type: str, coding: str) -> tuple[str | None, bytes]:
    """Return the coding of a stream and its first chunk, read while the second one waits."""
    decoders: dict[str, Any] = {
        "zstd": zstd.ZstdDecompressor().decompress,
        "gzip": zlib.decompressobj(31).decompress,
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(
        "GET", f"/stream?media_type={media_type}", headers={"Accept-Encoding": coding}
    )
    response = connection.getresponse()
    encoding = response.getheader("content-encoding")
    read = decoders[coding] if encoding else bytes
    text = b""
    while not text.endswith(b"\n\n"):
        received = response.read1()
        assert received, "the stream has ended"
        text += read(received)
    connection.close()
    return encoding, text


@pytest.mark.parametrize("coding", ["zstd", "gzip"])
def test_stream_is_decompressed_chunk_by_chunk(server: Server, coding: str) -> None:
    assert first_of(server, "text/plain", coding) == (coding, b"data: first\n\n")


def test_server_sent_events_are_not_compressed(server: Server) -> None:
    assert first_of(server, "text/event-stream", "gzip") == (None, b"data: first\n\n")


def test_file_is_compressed_and_its_ranges_are_not(server: Server) -> None:
    gzipped = {"Accept-Encoding": "gzip"}
    whole, part = server.get("/file", **gzipped), server.get("/file", **gzipped, Range="bytes=0-9")

    assert whole.headers["content-encoding"] == "gzip"
    assert whole.headers["etag"].startswith("W/")
    assert "accept-ranges" not in whole.headers
    assert part.status == 206
    assert "content-encoding" not in part.headers
    assert part.body == decoded(whole)[:10]


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(
            b"HEAD /file HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        )
        response = b"".join(iter(lambda: client.recv(65536), b"")).decode()

    headers, _, body = response.partition("\r\n\r\n")
    assert "content-encoding: gzip" in headers.lower()
    assert "vary: accept-encoding" in headers.lower()
    assert body == ""


@pytest.mark.parametrize("status", [204, 304])
def test_response_without_a_body_stays_empty(server: Server, status: int) -> None:
    response = server.get(f"/empty/{status}", **{"Accept-Encoding": "gzip"})

    assert (response.status, response.body) == (status, b"")
    assert "content-encoding" not in response.headers
