from typing import List

from pydantic import BaseModel, ConfigDict


class BookIn(BaseModel):
    title: str


class LoanOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    reader: str


class BookOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    loans: List[LoanOut] = []
