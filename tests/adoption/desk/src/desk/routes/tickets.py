import asyncio

from fastapi import APIRouter, BackgroundTasks, HTTPException, Request
from pydantic import BaseModel

from ..errors import TicketMissing

router = APIRouter()


class Ticket(BaseModel):
    text: str


async def tell(listeners, text):
    for listener in list(listeners):
        await listener.send_json({"new": text})


@router.post("/tickets")
async def create(ticket: Ticket, request: Request, tasks: BackgroundTasks):
    tickets = request.state.tickets
    if len(tickets) >= request.app.state.settings.tickets_max:
        raise HTTPException(429, "too many")
    tickets[len(tickets) + 1] = ticket.text
    tasks.add_task(tell, request.state.listeners, ticket.text)
    return {"number": len(tickets)}


@router.get("/tickets/{number}")
async def show(number: int, request: Request):
    await asyncio.sleep(0)
    if number not in request.state.tickets:
        raise TicketMissing(number)
    return request.state.tickets[number]


@router.get("/broken")
def broken():
    raise RuntimeError("secret")
