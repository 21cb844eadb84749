"""Forms and files."""

from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Form, UploadFile
from pydantic import BaseModel

router = APIRouter(tags=["uploads"])

MAX_UPLOAD_BYTES = 16 * 2**20
CHUNK_BYTES = 2**16


class Upload(BaseModel):
    """What was uploaded."""

    title: str
    size: int
    sha256: str


@router.post("/uploads", max_body_size=MAX_UPLOAD_BYTES)
async def upload(title: Annotated[str, Form()], file: UploadFile) -> Upload:
    """Take a file that is larger than other bodies may be."""
    digest, size = sha256(), 0
    while chunk := await file.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return Upload(title=title, size=size, sha256=digest.hexdigest())


@router.post("/avatars")
def upload_avatar(file: UploadFile) -> int:
    """Take a small file, in a thread."""
    return len(file.file.read())


@router.post("/feedback")
async def give_feedback(name: Annotated[str, Form()], stars: Annotated[int, Form()]) -> str:
    """Take a form."""
    return f"{name}: {stars}"
