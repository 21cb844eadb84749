from typing import List

from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy.orm import Session

from app.api.deps import get_db, require_key
from app.models.book import Book
from app.schemas.book import BookIn, BookOut

router = APIRouter(prefix="/books", tags=["books"])


@router.get("", response_model=List[BookOut])
def list_books(skip: int = 0, limit: int = 100, db: Session = Depends(get_db)):
    return db.query(Book).order_by(Book.id).offset(skip).limit(limit).all()


@router.post("", response_model=BookOut, status_code=201, dependencies=[Depends(require_key)])
def create_book(book: BookIn, db: Session = Depends(get_db)):
    created = Book(title=book.title)
    db.add(created)
    db.commit()
    db.refresh(created)
    return created


@router.get("/{book_id}", response_model=BookOut)
def get_book(book_id: int, db: Session = Depends(get_db)):
    book = db.get(Book, book_id)
    if book is None:
        raise HTTPException(status_code=404, detail="No such book")
    return book
