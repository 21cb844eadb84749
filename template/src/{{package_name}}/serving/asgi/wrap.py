"""Wraps the whole application in middleware."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

# Scope key of an object whose attribute `scope` is set to the scope that contains the route.
ROUTED_KEY = "serving.routed"


def wrap(app: FastAPI, **middleware: Callable[[ASGIApp], ASGIApp]) -> None:
    """Wrap `app` in a middleware for each type of scope, such as `http`.

    With `add_middleware` it would run inside FastAPI's error handling and inside middleware that is
    added later, and miss their responses. So the class of `app` is replaced with a subclass whose
    `__call__` calls the middleware.
    """
    app_class = type(app)

    def call_application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return app_class.__call__(app, scope, receive, send)  # instrumentation may replace it

    wrapped = {name: factory(call_application) for name, factory in middleware.items()}

    async def call(_: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        await wrapped[scope["type"]](scope, receive, send)

    names = {"__call__": call, "__doc__": app_class.__doc__, "__module__": app_class.__module__}
    app.__class__ = type(app_class.__name__, (app_class,), names)
    app.user_middleware.append(Middleware(RoutedScope))


class RoutedScope:
    """The innermost middleware: it records the scope to which the router adds the route.

    Middleware of the service that changes a scope passes a copy, as ASGI requires.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if routed := scope.get(ROUTED_KEY):
            routed.scope = scope
        return self.app(scope, receive, send)
