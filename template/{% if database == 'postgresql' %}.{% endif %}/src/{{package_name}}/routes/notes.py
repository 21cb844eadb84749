"""An example to delete: notes in the database."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from ..models import Note
from ..serving.database import DatabaseSession

router = APIRouter(prefix="/notes", tags=["example"])


class NewNote(BaseModel):
    """What a client sends."""

    # PostgreSQL takes every character but this one.
    text: Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class StoredNote(NewNote):
    """What a client gets."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime


@router.post("", status_code=201)
async def create_note(new: NewNote, session: DatabaseSession) -> StoredNote:
    """Store a note: it is committed when the client reads that it was created."""
    note = Note(text=new.text)
    session.add(note)
    await session.flush()
    return StoredNote.model_validate(note)


@router.get("")
async def list_notes(session: DatabaseSession) -> list[StoredNote]:
    """The last fifty, the newest first."""
    notes = await session.scalars(select(Note).order_by(Note.id.desc()).limit(50))
    return [StoredNote.model_validate(note) for note in notes]


@router.get("/{note_id}")
async def read_note(
    note_id: Annotated[int, Path(ge=1, lt=2**63)], session: DatabaseSession
) -> StoredNote:
    """One of them."""
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404, "There is no such note")
    return StoredNote.model_validate(note)
