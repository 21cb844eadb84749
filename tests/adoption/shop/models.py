from pydantic import BaseModel, EmailStr

PRICES = {}
ORDERS = []
EVENTS = []


class Order(BaseModel):
    item: str
    email: EmailStr
