"""A chat room of one process."""

from asyncio import Queue
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Sends each message to all who are in the room at that moment."""

    def __init__(self) -> None:
        self._inboxes: set[Queue[str]] = set()

    @contextmanager
    def enter(self) -> Iterator[Queue[str]]:
        """Receive messages in the queue until the end of the block."""
        inbox: Queue[str] = Queue()
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)

    def say(self, text: str) -> None:
        """Send a message."""
        for inbox in self._inboxes:
            inbox.put_nowait(text)
