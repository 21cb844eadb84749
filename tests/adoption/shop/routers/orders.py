from fastapi import APIRouter, BackgroundTasks, HTTPException, UploadFile

import models
from shop import place

router = APIRouter()


def send_mail(address):
    raise ConnectionError(address)


@router.post("/orders", status_code=201)
async def create_order(order: models.Order, tasks: BackgroundTasks):
    if order.item not in models.PRICES:
        raise HTTPException(404, {"item": order.item, "reason": "unknown"})
    tasks.add_task(send_mail, order.email)
    return {"number": place(order)}


@router.post("/pictures")
async def picture(file: UploadFile):
    return len(await file.read())
