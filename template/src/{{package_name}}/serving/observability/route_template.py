"""The path of a route as it was declared: the label of a request in log and metrics."""

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

    The number of values is bounded by the declared routes, whatever paths clients request.
    """
    route = matched_route(scope)
    path = getattr(route, "path_format", "")
    # A mount has moved what it matched from the path to the root path.
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
        of_mount = "" if root is None else "/{path}"  # the mounted application has answered itself
        path = getattr(find_route(routes, scope), "path_format", of_mount)
    return prefix + path or UNMATCHED


def matched_route(scope: Scope) -> Any:
    """Return the route that FastAPI has matched, with the prefixes of the routers around it."""
    context = scope.get("fastapi", NO_ROUTE).get("effective_route_context")
    if context is not None:
        included = context.starlette_route or context
        if not isinstance(included, MOUNTS):  # whose routes are inside
            return included
    route = scope.get("route")
    return None if isinstance(route, MOUNTS) else route


def mount_template(routes: Sequence[BaseRoute], path: str) -> tuple[str, list[BaseRoute]]:
    """Return the declared form of the path of mounts, and the routes of the innermost."""
    for mount in mounts(routes, path):
        if found := mount.path_regex.match(f"{path}/"):
            rest = found["path"].rstrip("/")
            inner, routes_of_inner = mount_template(mount.routes, f"/{rest}") if rest else ("", [])
            return str(mount.path) + inner, routes_of_inner or list(mount.routes)
    return "", []


def mounts(routes: Sequence[BaseRoute], path: str) -> Iterator[Any]:
    """Yield the mounts that may have that path, those first that are found at the least cost."""
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
    """Return the Starlette route of a request, whose scope has only the endpoint."""
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
    """Return the path that the routes of the innermost application are matched with."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
