"""The path of a route as it was declared: the label of a request in log and metrics."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Scope

UNMATCHED = "unmatched"


def route_template(app: FastAPI, scope: Scope) -> str:
    """Return a path such as `/orders/{id}`, mounts included, or "unmatched".

    The number of values is bounded by the declared routes, whatever paths clients request.
    """
    context = scope.get("fastapi", {}).get("effective_route_context")
    route = context or scope.get("route")
    # A mount has moved what it matched from the path to the root path.
    root = scope.get("app_root_path")
    below = scope["root_path"][len(root) :] if root is not None else ""
    if not below:
        route = route or find_route(app.routes, scope)
        return str(getattr(route, "path_format", UNMATCHED))
    prefix, routes = mount_template(app.routes, below)
    route = route or find_route(routes, scope)
    if isinstance(route, Mount):  # handled inside the mounted application
        return prefix + "/{path}"
    return prefix + str(getattr(route, "path_format", "/{path}"))


def mount_template(routes: Sequence[BaseRoute], path: str) -> tuple[str, Sequence[BaseRoute]]:
    """Return the declared form of the path of mounts, and the routes of the innermost."""
    for mount in routes:
        if isinstance(mount, Mount) and (found := mount.path_regex.match(f"{path}/")):
            rest = found["path"].rstrip("/")
            inner, routes_of_inner = mount_template(mount.routes, f"/{rest}") if rest else ("", ())
            return mount.path + inner, routes_of_inner or mount.routes
    return "", ()


def find_route(routes: Sequence[BaseRoute], scope: Scope) -> Route | WebSocketRoute | None:
    """Return the Starlette route of a request, whose scope has only the endpoint."""
    endpoint = scope.get("endpoint")
    for route in routes if endpoint else ():
        if isinstance(route, Route | WebSocketRoute) and route.endpoint is endpoint:
            return route
    return None
