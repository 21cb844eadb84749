"""Clients that send load and count the outcome of each request."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import network


@dataclass
class Tally:
    """The outcomes of the requests of a load."""

    answered: int = 0
    lost: int = 0
    """Sent on an established connection that then ended without the whole response."""
    failed: int = 0
    """Responses with a status other than 200."""
    refused: int = 0
    """Connections that were refused: nothing was sent."""
    posted: int = field(default=0, compare=False)
    """The answered ones that were POST requests."""


class Load:
    """Clients that send one request after another until `stop`.

    Each client keeps its connection, or opens one per request without `keep_alive`. A path is
    requested with GET, or with the prefix "POST " with a small body, sent in ten parts over
    `upload_seconds`. At most `rate` requests per second, to `host`, by default the loopback, from
    the network `namespace`, by default this one.
    """

    def __init__(
        self,
        port: int,
        paths: list[str],
        connections: int = 16,
        *,
        rate: float | None = None,
        namespace: Path | None = None,
        host: str = network.LOOPBACK,
        upload_seconds: float = 0,
        keep_alive: bool = True,
    ) -> None:
        self.tally = Tally()
        self.milliseconds: list[float] = []
        """Duration of each answered request, to the end of its response."""
        self._port = port
        self._paths = paths
        self._interval = 1 / rate if rate else 0
        self._due = 0.0
        self._namespace = namespace
        self._host = host
        self._upload_seconds = upload_seconds
        self._connection = "" if keep_alive else "Connection: close\r\n"
        self._stopping = False
        self._clients = [asyncio.create_task(self._client(n)) for n in range(connections)]

    async def answered(self, number: int) -> None:
        """Wait until `number` requests have been answered."""
        while self.tally.answered < number:
            for client in self._clients:
                if client.done():
                    client.result()
            await asyncio.sleep(0.01)

    async def stop(self) -> Tally:
        """Stop after each client's current request."""
        self._stopping = True
        await asyncio.gather(*self._clients)
        return self.tally

    async def _client(self, number: int) -> None:
        while not self._stopping:
            try:
                reader, writer = await self._connect()
            except OSError:
                self.tally.refused += 1
                await asyncio.sleep(0.02)
                continue
            try:
                while not self._stopping and await self._request(number, reader, writer):
                    number += 1
            except (OSError, asyncio.IncompleteReadError):
                self.tally.lost += 1
            finally:
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._namespace is None:
            return await asyncio.open_connection("127.0.0.1", self._port)
        connected = network.connect(self._port, self._namespace, host=self._host)
        return await asyncio.open_connection(sock=connected)

    async def _turn(self) -> None:
        """Wait until the next request is due; delays are not compensated."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due + self._interval, now)
        await asyncio.sleep(self._due - now)

    async def _request(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Send one request and read the response; return whether the connection can be reused."""
        if self._interval:
            await self._turn()
        begun = time.perf_counter()
        method, _, path = self._paths[number % len(self._paths)].rpartition(" ")
        part = b"4711" if method else b""
        parts = 10 if part and self._upload_seconds else 1
        head = f"{method or 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n{self._connection}"
        head += f"Content-Length: {parts * len(part)}\r\n\r\n" if part else "\r\n"
        writer.write(head.encode() + part)
        for sent in range(1, parts):
            due = begun + sent * self._upload_seconds / parts
            await asyncio.sleep(max(0, due - time.perf_counter()))  # delays do not add up
            writer.write(part)
        response = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *fields = response.split("\r\n")
        headers = dict(field.split(": ", 1) for field in fields if field)
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            await reader.readexactly(int(headers["content-length"]))
        if status.split()[1] == "200":
            self.tally.answered += 1
            self.milliseconds.append((time.perf_counter() - begun) * 1000)
            self.tally.posted += method == "POST"
        else:
            self.tally.failed += 1
        return headers.get("connection") != "close"
