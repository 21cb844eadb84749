"""The declared path of a route: the label of a request in log and metrics."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Host, Mount, Route, WebSocketRoute
from starlette.types import Scope

UNMATCHED = "unmatched"
MOUNTS = (Mount, Host)
NO_ROUTE: dict[str, Any] = {}


def route_template(app: FastAPI, scope: Scope) -> str:
    """Return a path such as `/orders/{id}`, mounts included, or "unmatched".

    The declared routes bound the number of values, independent of the requested paths.
    """
    route = matched_route(scope)
    path = getattr(route, "path_format", "")
    # A mount moves the part of the path that it matches to the root path.
    root = scope.get("app_root_path")
    if path and root is None:
        return str(path)
    prefix, routes = "", list(app.routes)
    if root is not None:
        prefix, routes = mount_template(routes, scope["root_path"][len(root) :])
    rest = scope.get("fastapi", {}).get("frontend_path")
    if rest is not None:
        path = path_below_mounts(scope)
        return prefix + path[: len(path) - len(rest)].rstrip("/") + "/{path}"
    if not path:
        # A mounted application, such as static files, may have no routes.
        default = "" if root is None else "/{path}"
        path = getattr(find_route(routes, scope), "path_format", default)
    return prefix + path or UNMATCHED


def matched_route(scope: Scope) -> Any:
    """Return the route that FastAPI has matched, with the prefixes of its routers; else None."""
    context = scope.get("fastapi", NO_ROUTE).get("effective_route_context")
    if context is not None:
        included = context.starlette_route or context
        if not isinstance(included, MOUNTS):  # they contain the route
            return included
    route = scope.get("route")
    return None if isinstance(route, MOUNTS) else route


def mount_template(routes: Sequence[BaseRoute], path: str) -> tuple[str, list[BaseRoute]]:
    """Return the declared path of the mounts that match `path`, and the innermost one's routes."""
    for mount in mounts(routes, path):
        if match := mount.path_regex.match(f"{path}/"):
            rest = match["path"].rstrip("/")
            inner, routes_of_inner = mount_template(mount.routes, f"/{rest}") if rest else ("", [])
            return str(mount.path) + inner, routes_of_inner or list(mount.routes)
    return "", []


def mounts(routes: Sequence[BaseRoute], path: str) -> Iterator[Any]:
    """Yield the mounts that may match `path`, those that are cheapest to find first."""
    direct = [route for route in routes if isinstance(route, Mount)]
    if path:
        yield from (mount for mount in direct if mount.path)
        others = [route for route in routes if not isinstance(route, Mount | Route)]
        for context in iter_route_contexts(others):  # those of included routers
            if isinstance(context.original_route, Mount):
                yield context
            elif isinstance(context.original_route, Host):
                yield from mounts(context.routes, path)
    yield from (mount for mount in direct if not mount.path)


def find_route(routes: Sequence[BaseRoute], scope: Scope) -> Route | WebSocketRoute | None:
    """Return the Starlette route of a request from its endpoint: the scope lacks the route."""
    endpoint = scope.get("endpoint")
    for route in routes if endpoint else ():
        if isinstance(route, Host) and (found := find_route(route.routes, scope)):
            return found
        # Several routes may have the same endpoint.
        if (
            isinstance(route, Route | WebSocketRoute)
            and route.endpoint is endpoint
            and route.path_regex.match(path_below_mounts(scope))
        ):
            return route
    return None


def path_below_mounts(scope: Scope) -> str:
    """Return the path against which the innermost application matches its routes."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
