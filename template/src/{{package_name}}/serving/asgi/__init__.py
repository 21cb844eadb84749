"""ASGI middleware for each request and WebSocket."""
