"""FastAPI's and Starlette's own tests, on applications with the serving layer."""
