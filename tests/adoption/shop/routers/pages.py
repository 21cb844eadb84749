from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory="templates")


@router.get("/", response_class=HTMLResponse)
def index(request: Request):
    return templates.TemplateResponse(request, "index.html", {"name": "Shop"})


@router.get("/robots.txt")
def robots():
    return FileResponse("static/robots.txt")


@router.post("/search")
def search(term: str = Form(...)):
    return RedirectResponse(f"/prices/{term}", status_code=303)
