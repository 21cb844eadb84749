"""Example, to delete: notes in the database."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from ..models import Note
from ..serving.database import DatabaseSession

router = APIRouter(prefix="/notes", tags=["example"])


class NewNote(BaseModel):
    """The request body."""

    # The only character that PostgreSQL does not accept.
    text: Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class StoredNote(NewNote):
    """The response body."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime


@router.post("", status_code=201)
async def create_note(new: NewNote, session: DatabaseSession) -> StoredNote:
    """Store a note; it is committed before the response is sent."""
    note = Note(text=new.text)
    session.add(note)
    await session.flush()
    return StoredNote.model_validate(note)


@router.get("")
async def list_notes(session: DatabaseSession) -> list[StoredNote]:
    """Return the last fifty notes, newest first."""
    notes = await session.scalars(select(Note).order_by(Note.id.desc()).limit(50))
    return [StoredNote.model_validate(note) for note in notes]


@router.get("/{note_id}")
async def read_note(
    note_id: Annotated[int, Path(ge=1, lt=2**63)], session: DatabaseSession
) -> StoredNote:
    """Return a note."""
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404, "Note not found")
    return StoredNote.model_validate(note)
