"""Transfers between accounts: a debit and a credit, both or neither."""

import asyncio
import logging
import time
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import select

from ..database import AsyncDatabaseSession, DatabaseSession
from ..models import Entry

router = APIRouter(tags=["transfers"])
logger = logging.getLogger(__name__)

# How long the transfer takes between debit and credit.
Delay = Annotated[float, Query(ge=0, le=60)]


class Transfer(BaseModel):
    """An amount from one account to another."""

    reference: Annotated[str, Field(min_length=1)]
    source: int
    target: int
    amount: Annotated[int, Field(gt=0)]

    @property
    def debit(self) -> Entry:
        return Entry(account=self.source, amount=-self.amount, reference=self.reference)

    @property
    def credit(self) -> Entry:
        return Entry(account=self.target, amount=self.amount, reference=self.reference)


@router.post("/transfers", status_code=201)
def transfer(transfer: Transfer, session: DatabaseSession, delay: Delay = 0) -> Transfer:
    """Transfer in a thread."""
    session.add(transfer.debit)
    session.flush()
    time.sleep(delay)
    session.add(transfer.credit)
    session.commit()
    logger.info("Transferred %s", transfer.reference)
    return transfer


@router.post("/async-transfers", status_code=201)
async def async_transfer(
    transfer: Transfer, session: AsyncDatabaseSession, delay: Delay = 0
) -> Transfer:
    """Transfer in a coroutine."""
    session.add(transfer.debit)
    await session.flush()
    await asyncio.sleep(delay)
    session.add(transfer.credit)
    return transfer


@router.get("/entries")
async def list_entries(reference: str, session: AsyncDatabaseSession) -> list[int]:
    """List the amounts of a transfer."""
    amounts = select(Entry.amount).where(Entry.reference == reference).order_by(Entry.id)
    return list(await session.scalars(amounts))
