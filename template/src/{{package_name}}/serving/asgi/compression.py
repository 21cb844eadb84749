"""Compression of responses: zstd, brotli or gzip, by `Accept-Encoding` (RFC 9110, 12.5.3).

Small responses, already compressed media types, server-sent events, ranges, and responses with
`Content-Encoding` or `Cache-Control: no-transform` are not compressed. The decision depends only
on the headers, so they are sent at once, before the first part of a stream.
"""

import asyncio
import re
import sys
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import brotli
from starlette.types import Message, Scope, Send

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bytes. A smaller response fits into one or two packets anyway.
MINIMUM_SIZE = 1024
# Bytes. Parts of this size are compressed in a thread: gzip takes a millisecond for one.
THREAD_SIZE = 128 * 1024
# A separate pool, because the service's threads may all be in use. Only two threads, because each
# takes CPU time from the event loop.
THREADS = ThreadPoolExecutor(2, thread_name_prefix="compression")

# zstd's output is smaller than gzip's, in a sixth of the time; brotli takes as long as gzip.
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
# Headers that would not match a compressed body.
UNTOUCHED_HEADERS = frozenset(
    {
        *(b"content-encoding", b"content-range", b"content-digest", b"repr-digest"),
        *(b"content-md5", b"digest"),
    }
)

# With these extensions the server sends a file itself, so its content can't be compressed here.
UNTOUCHED_EXTENSIONS = frozenset({"http.response.pathsend", "http.response.zerocopysend"})

# Compresses a part of a body and flushes it, so that the client can decode it. The second argument
# is True for the last part.
Encode = Callable[[bytes, bool], bytes]


def _zstd() -> Encode:
    compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
    return lambda data, last: compressor.compress(
        data, compressor.FLUSH_FRAME if last else compressor.FLUSH_BLOCK
    )


def _brotli() -> Encode:
    compressor = brotli.Compressor(quality=BROTLI_QUALITY, lgwin=BROTLI_WINDOW)
    return lambda data, last: (
        compressor.process(data) + (compressor.finish() if last else compressor.flush())
    )


def _gzip() -> Encode:
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=31)  # 31: with gzip's header
    part, end = zlib.Z_SYNC_FLUSH, zlib.Z_FINISH
    return lambda data, last: compressor.compress(data) + compressor.flush(end if last else part)


# In order of preference, where a client gives several the same weight.
CODINGS: dict[bytes, Callable[[], Encode]] = {b"zstd": _zstd, b"br": _brotli, b"gzip": _gzip}


@lru_cache(maxsize=256)
def best_coding(accept_encoding: bytes, *, is_stream: bool = False) -> bytes | None:
    """Return the preferred coding of an `Accept-Encoding` header, or None for no compression.

    Never brotli for a stream: it may be open for hours, and brotli keeps half a megabyte.
    """
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        weights[name] = _weight(parameters)
    others = weights.get(b"*", 0.0)
    codings = [coding for coding in CODINGS if not (is_stream and coding == b"br")]
    best = max(codings, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight and weight >= weights.get(b"identity", others) else None


def _weight(parameters: list[bytes]) -> float:
    """Return the weight of a coding, from 0 to 1; 0 if it is malformed."""
    if not parameters:
        return 1.0
    [parameter, *more] = parameters
    match = re.fullmatch(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameter)
    return float(match[1]) if match and not more else 0.0


@lru_cache(maxsize=256)
def compressible(content_type: bytes) -> bool:
    """Return whether bodies of a media type are worth compressing."""
    return COMPRESSIBLE.match(content_type) is not None


def negotiate(scope: Scope, start: Message) -> "Compressor | None":
    """Return the compressor for a response, given its start, or None to send it unchanged."""
    content_type, is_stream = b"", True
    for name, value in start["headers"]:  # always present: `headers.completed` adds some
        name = name.lower()
        if name == b"content-length" and value.isdigit():
            is_stream = False
            if int(value) < MINIMUM_SIZE:
                return None
        elif name == b"content-type":
            content_type = value
        elif name in UNTOUCHED_HEADERS or (
            name == b"cache-control" and b"no-transform" in value.lower()
        ):
            return None
    if start["status"] in UNTOUCHED_STATUS or not compressible(content_type):
        return None
    if not UNTOUCHED_EXTENSIONS.isdisjoint(scope.get("extensions", ())):
        return None
    headers = scope.get("headers", ())
    accepted = b",".join(value for name, value in headers if name == b"accept-encoding")
    coding = best_coding(accepted[:256], is_stream=is_stream)
    if scope.get("http_version") == "1.0":  # without chunked encoding
        coding = None
    return Compressor(coding, has_body=scope["method"] != "HEAD")


class Compressor:
    """Compresses one response; without a coding it only adds `Vary` for caches."""

    def __init__(self, coding: bytes | None, *, has_body: bool) -> None:
        self.coding = coding
        self.encode = CODINGS[coding]() if coding and has_body else None

    def start(self, message: Message) -> Message:
        """Return the start of the response with the headers of its encoded body."""
        kept, varies = [], []
        for name, value in message["headers"]:
            match name.lower():
                case b"vary":
                    varies.append(value)
                case b"content-length" | b"accept-ranges" if self.coding:
                    continue  # they describe the uncompressed body
                case b"etag" if self.coding and not value.startswith(b"W/"):
                    kept.append((name, b"W/" + value))  # same content, different bytes
                case _:
                    kept.append((name, value))
        named = {name.strip().lower() for value in varies for name in value.split(b",")}
        if named.isdisjoint({b"*", b"accept-encoding"}):
            varies.append(b"Accept-Encoding")
        kept.append((b"vary", b", ".join(varies)))
        if self.coding:
            kept.append((b"content-encoding", self.coding))
        return {**message, "headers": kept}

    def send(self, message: Message, send: Send) -> Awaitable[None]:
        """Send a part of the body."""
        return self._send_encoded(message, send, self.encode) if self.encode else send(message)

    async def _send_encoded(self, message: Message, send: Send, encode: Encode) -> None:
        body, last = message.get("body", b""), not message.get("more_body", False)
        if len(body) < THREAD_SIZE:
            body = encode(body, last)
        else:
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(THREADS, encode, body, last)
        await send({**message, "body": body})
