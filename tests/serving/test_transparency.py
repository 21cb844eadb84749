"""A client gets the same response with the serving layer and without."""

import gzip
import json
import sys
from collections.abc import Iterator

import brotli
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..harness.project import Project
from ..harness.server import HttpResponse, Server, serve
from ..harness.wire import HOST, Wire

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Sends the messages described by a request header, in all forms that ASGI permits.
ROUTES = """
import json

from {package}.app import create_app


async def told(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    script = json.loads(dict(scope["headers"]).get(b"x-script", b"{{}}"))
    headers = [(name.encode(), value.encode()) for name, value in script.get("headers", [])]
    form = {{"list": list, "tuple": tuple, "iterator": iter}}[script.get("form", "list")]
    start = {{"type": "http.response.start", "status": script.get("status", 200)}}
    if headers:
        start["headers"] = form(headers)
    await send(start)
    *parts, last = script.get("parts", [""])
    for part in parts:
        await send({{"type": "http.response.body", "body": part.encode(), "more_body": True}})
    end = {{"type": "http.response.body", "more_body": False, "body": last.encode()}}
    await send({{name: value for name, value in end.items() if value}})


app = create_app()
app.mount("/told", told)
"""

OURS = {"content-security-policy", "x-content-type-options", "x-request-id", "cache-control"}
# Headers that compression adds or changes.
ENCODED = {"content-encoding", "content-length", "transfer-encoding", "vary", "accept-ranges"}

STATUSES = [200, 200, 200, 201, 204, 205, 206, 299, 304, 307, 404, 418, 500, 503]
TYPES = ["text/plain", "application/json", "text/event-stream", "image/png", ""]
HEADERS = [
    *[("etag", '"one"'), ("etag", 'W/"one"'), ("vary", "*"), ("vary", "Accept-Encoding")],
    *[("vary", "x, y"), ("cache-control", "no-transform"), ("content-encoding", "identity")],
    *[("accept-ranges", "bytes"), ("x-own", ""), ("content-security-policy", "sandbox")],
    *[("x-request-id", "of the application")],
]
CODINGS = ["", "identity", "gzip", "br", "zstd", "*", "identity;q=0", "gzip, br;q=0.1"]

part = st.sampled_from(["", "x", "text " * 10, "text " * 300, "text " * 30_000])


@st.composite
def scripts(draw: st.DrawFn) -> dict[str, object]:
    """Return the messages of a response."""
    parts = draw(st.lists(part, min_size=1, max_size=4))
    status = draw(st.sampled_from(STATUSES))
    if status in (204, 304):
        parts = [""]
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3, unique_by=lambda pair: pair[0]))
    if media_type := draw(st.sampled_from(TYPES)):
        headers.append(("content-type", media_type))
    if status not in (204, 304) and draw(st.booleans()):
        headers.append(("content-length", str(sum(map(len, parts)))))
    form = draw(st.sampled_from(["list", "tuple", "iterator"]))
    return {"status": status, "headers": headers, "parts": parts, "form": form}


@pytest.fixture(scope="module")
def servers(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """The application with and without the serving layer."""
    directory = tmp_path_factory.mktemp("transparency")
    (directory / "routes.py").write_text(ROUTES.format(package=project.package))
    env = {"PYTHONPATH": str(directory), "WEB_CONCURRENCY": "1"}
    with (
        serve(project, directory / "log", "routes:app", env) as served,
        serve(project, directory / "bare", "routes:told", env) as bare,
    ):
        yield served, bare


def ask(server: Server, method: str, path: str, script: str, accepted: str) -> HttpResponse:
    with Wire(server) as wire:
        head = (
            f"{method} {path} HTTP/1.1\r\nX-Script: {script}\r\nAccept-Encoding: {accepted}\r\n\r\n"
        )
        wire.send(head.replace("\r\n", "\r\n" + HOST.decode(), 1).encode())
        return wire.response(method)


def decoded(answer: HttpResponse) -> bytes:
    match answer.headers.get("content-encoding"):
        case "zstd":
            return zstd.decompress(answer.body)
        case "br":
            return bytes(brotli.decompress(answer.body))
        case "gzip":
            return gzip.decompress(answer.body)
        case _:
            return answer.body


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(scripts(), st.sampled_from(["GET", "HEAD", "POST"]), st.sampled_from(CODINGS))
def test_client_receives_the_response_of_the_application(
    servers: tuple[Server, Server], script: dict[str, object], method: str, accepted: str
) -> None:
    served, bare = (
        ask(server, method, path, json.dumps(script), accepted)
        for server, path in zip(servers, ("/told/x", "/x"), strict=True)
    )

    assert served.status == bare.status
    assert (b"" if method == "HEAD" else decoded(served)) == bare.body
    own = {"date"} | ENCODED | (OURS - bare.headers.keys())
    encoded = {name: served.headers.get(name) for name in ENCODED}
    got = {name: value for name, value in served.headers.items() if name not in own}
    sent = {name: value for name, value in bare.headers.items() if name not in own}
    if "etag" in got and encoded["content-encoding"] != bare.headers.get("content-encoding"):
        sent["etag"] = "W/" + sent["etag"].removeprefix("W/")
    assert got == sent
    assert served.headers.keys() >= OURS
    if encoded["content-encoding"] == bare.headers.get("content-encoding"):
        for name in ENCODED - {"vary"}:
            assert encoded[name] == bare.headers.get(name), name
