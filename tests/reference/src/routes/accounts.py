"""Accounts, for clients with a token."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from ..auth import require_token
from ..database import AsyncDatabaseSession, DatabaseSession
from ..models import Account, Entry

router = APIRouter(prefix="/accounts", tags=["accounts"], dependencies=[Depends(require_token)])


class NewAccount(BaseModel):
    """A request to open an account."""

    tenant: Annotated[str, Field(pattern=r"^[a-z]+$")]
    name: Annotated[str, Field(min_length=1)]


class Balance(BaseModel):
    """An account and its balance."""

    id: int
    name: str
    balance: int


@router.post("", status_code=201)
async def open_account(account: NewAccount, session: AsyncDatabaseSession) -> Balance:
    """Open an account."""
    row = Account(tenant=account.tenant, name=account.name)
    session.add(row)
    await session.flush()
    return Balance(id=row.id, name=row.name, balance=0)


@router.get("/{account}")
def read_balance(account: int, session: DatabaseSession) -> Balance:
    """Read the balance of an account."""
    row = session.get(Account, account)
    if row is None:
        raise HTTPException(404)
    total = select(func.coalesce(func.sum(Entry.amount), 0)).where(Entry.account == account)
    return Balance(id=row.id, name=row.name, balance=session.scalars(total).one())
