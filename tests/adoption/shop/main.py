import json
import os

import uvicorn
from fastapi import FastAPI, Path
from fastapi.staticfiles import StaticFiles

import config, models
import routers.orders
from routers import pages

app = FastAPI(title="Shop")
app.mount("/static", StaticFiles(directory="static"), name="static")
app.include_router(routers.orders.router)
app.include_router(pages.router)

with open("data/prices.json") as file:
    models.PRICES.update(json.load(file))


@app.on_event("startup")
def announce():
    models.EVENTS.append("started")


@app.get("/prices/{item}")
def price(item: str = Path(min_length=2)):
    return {"item": item, "price": models.PRICES.get(item), "currency": config.settings.currency}


if __name__ == "__main__":
    uvicorn.run("main:app", port=int(os.environ.get("PORT", "8000")), workers=4)
