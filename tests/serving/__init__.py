"""What the serving layer keeps of FastAPI's guarantees, on a real server."""
