"""The load on the reference service during an event, and its outcomes."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ..harness import network
from ..harness.kubernetes import Service
from ..harness.load import Load, Tally

REQUESTS = int(os.environ.get("CLUSTER_REQUESTS", 20_000))
RATE = 600
SECONDS = 1800
SHORT = [*["/health/live", "POST /echo"] * 20, "/large-response?size_kb=64"]
"""Few large ones: each takes as much CPU time as twenty of the others."""
LONG_SECONDS = 4
"""Seconds of a long request; the budget is 5."""
UPLOAD_SECONDS = 3
"""Seconds of an upload; shorter, because a client that waits for the CPU sends its parts late."""
WEBSOCKETS = 4


@dataclass
class Outcome:
    """Outcomes of the requests and WebSockets during an event."""

    requests: dict[str, Tally]
    """Outcomes by kind of request."""
    close_codes: list[int] = field(default_factory=list)
    """Close codes of the WebSockets that the service closed."""
    failed_connects: list[str] = field(default_factory=list)
    """Why a WebSocket could not be opened, once per attempt."""


def under_load(
    service: Service, client: Path, event: Callable[[], object], requests: int = REQUESTS
) -> Outcome:
    """Call a function during short and long requests, streams, uploads and open WebSockets.

    It returns after at least `requests` short requests, some of them before and after the event.
    """
    outcome, host = Outcome({}), service.address

    def load(*paths: str, **options: Any) -> Load:
        return Load(80, list(paths), namespace=client, host=host, **options)

    async def open_websocket() -> None:
        while True:
            try:
                sock = await asyncio.to_thread(network.connect, 80, client, host=host)
                async with connect(f"ws://{host}/echo", sock=sock) as websocket:
                    await websocket.recv()
            except ConnectionClosed as end:
                outcome.close_codes.append(end.rcvd.code if end.rcvd else 1006)
            except (OSError, InvalidHandshake) as error:
                outcome.failed_connects.append(repr(error))
                await asyncio.sleep(0.1)

    async def run() -> Outcome:
        short = load(*SHORT, rate=RATE)
        loads = {
            "short": short,
            "long": load(f"/hold?seconds={LONG_SECONDS}", connections=8),
            # Otherwise the connection of a stream from before SIGTERM would be reused.
            "stream": load(f"/stream?seconds={LONG_SECONDS}", connections=4, keep_alive=False),
            "upload": load("POST /echo", connections=4, upload_seconds=UPLOAD_SECONDS),
        }
        websockets = [asyncio.create_task(open_websocket()) for _ in range(WEBSOCKETS)]
        async with asyncio.timeout(SECONDS):
            await short.answered(requests // 20)
            await asyncio.to_thread(event)
            await short.answered(max(requests, short.tally.answered + requests // 20))
            tallies = await asyncio.gather(*(each.stop() for each in loads.values()))
        for task in websockets:
            task.cancel()
        ended = await asyncio.gather(*websockets, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        outcome.requests = dict(zip(loads, tallies, strict=True))
        return outcome

    return asyncio.run(run())


def assert_nothing_lost(outcome: Outcome, requests: int = REQUESTS) -> None:
    for kind, tally in outcome.requests.items():
        assert tally == Tally(answered=tally.answered), (kind, outcome)
        assert tally.answered > 0, kind
    assert outcome.requests["short"].answered >= requests
    assert set(outcome.close_codes) <= {1012}, outcome
    assert not outcome.failed_connects, outcome
