import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app.api import books, loans

app = FastAPI(title="Books", version="2.3.0")
app.add_middleware(CORSMiddleware, allow_origins=["https://books.example"], allow_methods=["*"])
app.include_router(books.router)
app.include_router(loans.router)


@app.get("/health")
def health():
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run("app.main:app", host="0.0.0.0", port=8080, reload=True)
