from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.deps import get_db, require_key
from app.models.loan import Loan

router = APIRouter(prefix="/loans", tags=["loans"], dependencies=[Depends(require_key)])


class LoanIn(BaseModel):
    book_id: int
    reader: str


@router.post("", status_code=204)
def lend(loan: LoanIn, db: Session = Depends(get_db)):
    db.add(Loan(book_id=loan.book_id, reader=loan.reader))
    db.commit()
