"""Compression of responses: zstd, brotli or gzip, as `Accept-Encoding` asks (RFC 9110, 12.5.3).

Untouched are small responses, media types that are compressed already, server-sent events, ranges,
and what has a `Content-Encoding` or says `Cache-Control: no-transform`.
"""

import asyncio
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import brotli
from starlette.types import Message, Scope, Send

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bytes. Below, a response fits into a packet or two either way.
MINIMUM_SIZE = 1024
# Bytes. From here on a thread compresses: gzip takes a millisecond for this much.
THREAD_SIZE = 128 * 1024
# Threads of their own: the service's may all be waiting. No more than two, since each of them takes
# its share of the processor from the event loop.
THREADS = ThreadPoolExecutor(2, thread_name_prefix="compression")

# Smaller than gzip's, for a sixth of its time; brotli's takes as long as gzip's.
ZSTD_LEVEL = 1
BROTLI_QUALITY = 4
BROTLI_WINDOW = 18  # 256 KiB: its default, 4 MiB, is slower and gains nothing on JSON
GZIP_LEVEL = 5

COMPRESSIBLE = re.compile(
    rb"text/(?!event-stream)"
    rb"|(?:application|image|model)/[^;]*\+(?:json|xml|text|yaml)"
    rb"|application/(?:json|jsonl|x-ndjson|javascript|xml|yaml|toml|sql|graphql|wasm|protobuf)\b"
    rb"|image/bmp|font/(?:otf|ttf)",
    re.IGNORECASE,
)
# Statuses without a body, or with a part of one.
UNTOUCHED_STATUS = frozenset({204, 205, 206, 304})
# What a transformed body would make untrue.
UNTOUCHED_HEADERS = frozenset(
    {b"content-encoding", b"content-range", b"content-digest", b"repr-digest"}
)

Headers = Iterable[tuple[bytes, bytes]]
RawHeaders = list[tuple[bytes, bytes]]
# Compresses a part of a body, flushed so that the client can read it; True for the last part.
Encode = Callable[[bytes, bool], bytes]


def _zstd() -> Encode:
    compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
    return lambda data, last: compressor.compress(
        data, compressor.FLUSH_FRAME if last else compressor.FLUSH_BLOCK
    )


def _brotli() -> Encode:
    compressor = brotli.Compressor(quality=BROTLI_QUALITY, lgwin=BROTLI_WINDOW)

    def encode(data: bytes, last: bool) -> bytes:
        begun: bytes = compressor.process(data)
        rest: bytes = compressor.finish() if last else compressor.flush()
        return begun + rest

    return encode


def _gzip() -> Encode:
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=31)  # 31: with gzip's header
    part, end = zlib.Z_SYNC_FLUSH, zlib.Z_FINISH
    return lambda data, last: compressor.compress(data) + compressor.flush(end if last else part)


# The first one is taken when the client likes several as much.
CODINGS: dict[bytes, Callable[[], Encode]] = {b"zstd": _zstd, b"br": _brotli, b"gzip": _gzip}


class Choice(NamedTuple):
    """What a client accepts: the best coding, or None for none, and whether plain is refused."""

    coding: bytes | None
    never_plain: bool = False


PLAIN = Choice(None)


@lru_cache(maxsize=256)
def negotiate(accept_encoding: bytes) -> Choice:
    """The coding that an `Accept-Encoding` asks for; what can't be read in it is not accepted."""
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        weights[name] = _weight(parameters)
    others = weights.get(b"*", 0.0)
    plain = weights.get(b"identity", weights.get(b"*"))  # None: accepted, after all others
    best = max(CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    if weight == 0 or weight < (plain or 0):
        return PLAIN
    return Choice(best, never_plain=plain == 0)


def _weight(parameters: list[bytes]) -> float:
    if not parameters:
        return 1.0
    [parameter, *more] = parameters
    found = re.fullmatch(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameter)
    return float(found[1]) if found and not more else 0.0


@lru_cache(maxsize=256)
def compressible(content_type: bytes) -> bool:
    """Whether bodies of that type get smaller."""
    return COMPRESSIBLE.match(content_type) is not None


def accepted(scope: Scope) -> Choice:
    """What the client of a request accepts; nothing but plain, unless it says so."""
    values = [value for name, value in scope["headers"] if name == b"accept-encoding"]
    if not values:
        return PLAIN
    header = b",".join(values)
    return negotiate(header) if len(header) <= 256 else negotiate.__wrapped__(header)


def responder(scope: Scope, start: Message, send: Send) -> "Responder | None":
    """Who takes this response from its start message on, or None when it stays as it is."""
    choice = accepted(scope)
    minimum_size = 1 if choice.never_plain else MINIMUM_SIZE
    headers = start["headers"]
    length, content_type = 0, b""
    for name, value in headers:
        name = name.lower()
        if name == b"content-length":
            length = int(value)
            if length < minimum_size:
                return None
        elif name == b"content-type":
            content_type = value
        elif name in UNTOUCHED_HEADERS or (
            name == b"cache-control" and b"no-transform" in value.lower()
        ):
            return None
    if start["status"] in UNTOUCHED_STATUS or not compressible(content_type):
        return None
    coding = choice.coding
    if scope["method"] == "HEAD":  # the headers of GET, whose body isn't here to be compressed
        if coding and length:
            start = {**start, "headers": encoded_headers(headers, coding)}
        coding = None
    return Responder(start, coding, minimum_size, send)


class Responder:
    """Sends one response; its start waits until the first part of the body is there.

    Without a coding it stays plain, but caches are told that for others it would not.
    """

    def __init__(self, start: Message, coding: bytes | None, minimum_size: int, send: Send) -> None:
        self.start: Message | None = start
        self.coding = coding
        self.minimum_size = minimum_size
        self.send = send
        self.encode: Encode | None = None

    async def __call__(self, message: Message) -> None:
        """Take the next message."""
        if message["type"] == "http.response.start":
            return  # it has it already
        start, self.start = self.start, None
        if message["type"] == "http.response.body":
            body, last = message.get("body", b""), not message.get("more_body", False)
            if start and self.coding and (not last or len(body) >= self.minimum_size):
                self.encode = CODINGS[self.coding]()
            if self.encode:
                body = await compressed(self.encode, body, last)
                message = {**message, "body": body}
            if start and self.coding and self.encode:
                known = last and not start.get("trailers", False)
                length = len(body) if known else None
                headers = encoded_headers(start["headers"], self.coding, length)
                start = {**start, "headers": headers}
            elif start:
                start = {**start, "headers": with_vary(start["headers"])}
        if start:  # as it is before anything but a body, such as the path of a file
            await self.send(start)
        await self.send(message)


async def compressed(encode: Encode, data: bytes, last: bool) -> bytes:
    """What goes over the wire for `data`; a thread computes it when that takes a while."""
    if len(data) < THREAD_SIZE:
        return encode(data, last)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(THREADS, encode, data, last)


def encoded_headers(headers: Headers, coding: bytes, length: int | None = None) -> RawHeaders:
    """The headers of a response once its body is encoded; no length: nobody knows yet."""
    kept = []
    for name, value in with_vary(headers):
        match name.lower():
            case b"content-length" | b"accept-ranges":  # a range would be one of the encoded body
                continue
            case b"etag" if not value.startswith(b"W/"):  # the same content, but not the same bytes
                value = b"W/" + value
        kept.append((name, value))
    kept.append((b"content-encoding", coding))
    if length is not None:
        kept.append((b"content-length", b"%d" % length))
    return kept


def with_vary(headers: Headers) -> RawHeaders:
    """The headers, with a `Vary` that names `Accept-Encoding` as well."""
    varies = [value for name, value in headers if name.lower() == b"vary"]
    others = [(name, value) for name, value in headers if name.lower() != b"vary"]
    names = {name.strip().lower() for value in varies for name in value.split(b",")}
    if names.isdisjoint({b"*", b"accept-encoding"}):
        varies.append(b"Accept-Encoding")
    return [*others, (b"vary", b", ".join(varies))]
