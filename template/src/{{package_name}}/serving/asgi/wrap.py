"""Wraps the whole application in middleware."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .deadlines import SCOPE_KEY


def wrap(app: FastAPI, **middleware: Callable[[ASGIApp], ASGIApp]) -> None:
    """Route the calls of `app` through a middleware for each type of scope, such as `http`.

    `add_middleware` would put it inside FastAPI's error handling, and inside middleware that is
    added later: it would not see every response. So the class of `app` becomes a subclass whose
    `__call__` calls the middleware.
    """
    app_class = type(app)

    def call_application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return app_class.__call__(app, scope, receive, send)  # instrumentation may replace it

    wrapped = {name: around(call_application) for name, around in middleware.items()}

    async def call(_: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        await wrapped[scope["type"]](scope, receive, send)

    names = {"__call__": call, "__doc__": app_class.__doc__, "__module__": app_class.__module__}
    app.__class__ = type(app_class.__name__, (app_class,), names)
    app.user_middleware.append(Middleware(RoutedScope))


class RoutedScope:
    """The innermost middleware: it notes the scope that gets the route.

    A middleware of the service that changes a scope passes on a copy of it, as ASGI demands.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if noted := scope.get(SCOPE_KEY):
            noted.scope = scope
        return self.app(scope, receive, send)
