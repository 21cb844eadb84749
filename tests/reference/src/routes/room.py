"""A chat room: WebSockets, Server-Sent Events and NDJSON."""

from asyncio import Queue
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Body, Query, WebSocket, WebSocketDisconnect
from fastapi.sse import EventSourceResponse, ServerSentEvent

from ..state import AppState

router = APIRouter(prefix="/room", tags=["room"])

Limit = Annotated[int, Query(ge=1, description="Messages until the stream ends")]


@router.websocket("")
async def chat(socket: WebSocket, name: str, state: AppState) -> None:
    """Take part under a name until the client or the server closes the socket."""
    room = state["room"]
    await socket.accept()
    with room.enter() as inbox:
        room.say(f"{name} joined")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(deliver, inbox, socket)
                async for text in socket.iter_text():
                    room.say(f"{name}: {text}")
                tasks.cancel_scope.cancel()
        finally:
            room.say(f"{name} left")


async def deliver(inbox: Queue[str], socket: WebSocket) -> None:
    """Send messages to a client until it is gone."""
    try:
        while True:
            await socket.send_text(await inbox.get())
    except WebSocketDisconnect:
        pass


@router.post("", status_code=204)
async def say(text: Annotated[str, Body(embed=True)], state: AppState) -> None:
    """Send a message without being in the room."""
    state["room"].say(text)


@router.get("/events", response_class=EventSourceResponse)
async def events(state: AppState, limit: Limit = 100) -> AsyncIterator[ServerSentEvent]:
    """Follow the room by Server-Sent Events; the first says that the stream is open."""
    with state["room"].enter() as inbox:
        yield ServerSentEvent(event="open", data="")
        for number in range(1, limit + 1):
            yield ServerSentEvent(event="message", id=str(number), data=await inbox.get())


@router.get("/messages")
async def messages(state: AppState, limit: Limit = 100) -> AsyncIterator[dict[str, str]]:
    """Follow the room by lines of JSON; the first says that the stream is open."""
    with state["room"].enter() as inbox:
        yield {"state": "open"}
        for _ in range(limit):
            yield {"text": await inbox.get()}
