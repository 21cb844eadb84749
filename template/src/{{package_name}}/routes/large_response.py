"""Example for measurements, to delete: JSON of a requested size."""

import json
from itertools import count
from typing import Annotated

from fastapi import APIRouter, Query, Response

router = APIRouter(tags=["example"])

CITIES = ("Amsterdam", "Bergen", "Cádiz", "Dakar", "Edinburgh", "Florence", "Ghent", "Hanoi")
STATES = ("placed", "paid", "packed", "shipped", "delivered", "returned")


def order(number: int) -> dict[str, object]:
    """Return a row of pseudo-random data; the same number gives the same row."""
    mixed = number * 2_654_435_761 % 2**32  # Knuth's multiplicative hash
    return {
        "id": f"ord_{mixed:08x}",
        "number": 100_000 + number,
        "state": STATES[mixed % len(STATES)],
        "customer": {"id": mixed % 7_919, "city": CITIES[mixed // 7 % len(CITIES)]},
        "items": mixed % 9 + 1,
        "total": round(mixed % 250_000 / 100, 2),
        "currency": "EUR",
        "placed_at": f"2026-{mixed % 12 + 1:02}-{mixed % 28 + 1:02}T{mixed % 24:02}:00:00Z",
    }


@router.get("/large-response", response_class=Response)
def large_response(
    size_kb: Annotated[int, Query(ge=1, le=4096, description="Size of the body, in KiB")] = 100,
) -> Response:
    """Return orders in a body of `size_kb` KiB, plus less than one row.

    A plain function runs in a thread, so that building a large body does not block the event loop.
    """
    rows: list[str] = []
    length = len('{"orders":[]}')
    for number in count():
        row = json.dumps(order(number), ensure_ascii=False, separators=(",", ":"))
        rows.append(row)
        length += len(row.encode()) + 1  # the comma
        if length > size_kb * 1024:
            break
    return Response('{"orders":[' + ",".join(rows) + "]}", media_type="application/json")
