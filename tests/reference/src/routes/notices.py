"""Notices, sent by background tasks after the response."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Body
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ..database import DatabaseSession
from ..models import Notice
from ..state import AppState

router = APIRouter(prefix="/notices", tags=["notices"])


def send(text: str, engine: Engine, fail: bool) -> None:
    """Send a notice; it needs a session of its own, since the request's may be closed."""
    if fail:
        raise ConnectionError(f"no printer for {text}")
    with Session(engine) as session:
        session.add(Notice(text=text))
        session.commit()


@router.post("", status_code=202)
async def send_later(
    text: Annotated[str, Body(embed=True)],
    tasks: BackgroundTasks,
    state: AppState,
    fail: bool = False,
) -> str:
    """Answer, then send a notice."""
    tasks.add_task(send, text, state["engine"], fail)
    return "accepted"


@router.get("")
def list_notices(session: DatabaseSession) -> list[str]:
    """List the notices that were sent."""
    return list(session.scalars(select(Notice.text).order_by(Notice.id)))
