"""Write the generated pages of docs/reference from the sources and from running services.

`python -m tests.harness.reference` renders a service for each target and runs it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
from websockets.sync.client import connect

from .ownership import owner
from .project import Project
from .server import HttpResponse, free_port, serve
from .template import ROOT, TARGETS, questions, render, snapshot

REFERENCE = ROOT / "docs/reference"
WRITTEN = "<!-- Written by `python -m tests.harness.reference`: don't edit it. -->\n\n"
SERVICE = {"project_name": "Orders API", "traces": True}

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
DATABASE = {**SERVICE, "deployment": "vm", "database": "postgresql"}
WITH_DATABASE = "`database=postgresql`"
SCHEMA = """
import json
from {package}.{module} import {name}
print(json.dumps({name}.model_json_schema(mode="validation")["properties"]))
"""
BROKEN = """
import logging
from fastapi import WebSocket
from {package}.app import create_app

app = create_app()

@app.get("/broken")
async def broken() -> None:
    logging.getLogger(__name__).error("about to break", stack_info=True)
    raise RuntimeError("broken")

@app.websocket("/socket")
async def read_one(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
"""

FIELDS = {
    "timestamp": "time of the event, UTC, RFC 3339",
    "level": "`debug` to `critical`; for requests `info`, or `warning` for status 500 and above",
    "logger": "name of the Python logger; for requests, the module that writes the line",
    "event": "the message; `request` or `websocket` for the line that is written when one ends",
    "method": "HTTP method; `other` if it is not a standard method",
    "route": "path of the route as declared, such as `/orders/{id}`; `unmatched` if none matches",
    "status": "status of the response; for a WebSocket that of the handshake, 101 if accepted",
    "close_code": "close code of the WebSocket; 1006 without a close frame, null if refused",
    "duration_ms": "time from the request headers to the end of the response or WebSocket",
    "bytes": "size of the response body as sent, after compression",
    "client": "address of the client; null if unknown",
    "request_id": "request ID, as in the response header `X-Request-ID` and in problem details",
    "trace_id": "trace ID of `traceparent`; with `traces`, that of the request's span",
    "span_id": "with `traces`: ID of the request's span",
    "exception": "traceback, secrets masked",
    "stack": "call stack, for `stack_info=True` and for a request cancelled at its deadline",
}
"""Descriptions of log fields; an undocumented or never seen field is an error."""


def pages(directory: Path) -> dict[str, str]:
    """Return the pages by name; `directory` is empty and gets the services and their logs."""
    template = snapshot(directory / "template")
    services = {}
    for target in TARGETS:
        render(template, directory / target, {**SERVICE, "deployment": target})
        services[target] = Project(directory / target)
        services[target].uv("sync", "--quiet")
    render(template, directory / "database", DATABASE)
    with_database = Project(directory / "database")
    with_database.uv("sync", "--quiet")
    seen = {target: observed(service) for target, service in services.items()}
    scrapes = {target: metrics for target, (metrics, _) in seen.items()}
    return {
        "questions.md": questions_page(),
        "settings.md": settings_page(services, with_database),
        "metrics.md": metrics_page(scrapes, observed(with_database)[0]),
        "log.md": log_page([line for _, log in seen.values() for line in log]),
        "files.md": files_page(),
    }


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; bars in cells are escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |\n" for row in lines
    )


def code(value: object) -> str:
    """Return a value as inline code; an empty string for None or an empty one."""
    return "" if value in (None, "") else f"`{value}`"


# ── Questions ─────────────────────────────────────────────────────────────────────────────────


def questions_page() -> str:
    """Return the questions of `copier copy`, in order."""
    visible = {n: q for n, q in questions().items() if q.get("when") is not False}
    text = (
        "# Questions\n\n"
        "The questions of `copier copy`. `-d NAME=VALUE` answers one on the command\n"
        "line. Names and values are a public API: they do not change without a migration.\n"
    )
    for name, question in visible.items():
        text += f"\n## `{name}`\n\n{question['help']}\n\n"
        text += table(("", ""), _facts(question))
    return text


def _facts(question: dict[str, Any]) -> Iterator[tuple[str, str]]:
    choices = question.get("choices")
    if isinstance(choices, dict):
        for what, value in choices.items():
            yield code(value), what
    elif choices:
        yield "one of", ", ".join(map(code, choices))
    else:
        yield "type", code(question["type"])
    default = question.get("default")
    if question.get("ask") is False:
        yield "asked", "never: Copier computes and stores it"
    else:
        yield "default", _default(default) if default is not None else "none, an answer is required"
    if complaint := _complaint(question.get("validator", "")):
        yield "accepts", complaint
    if condition := question.get("ask"):
        [(name, value)] = re.findall(r"(\w+) == '(\w+)'", condition)
        yield "asked if", code(f"{name}={value}")


def _default(default: object) -> str:
    """Return a default; of one that follows from other answers, an example."""
    if not isinstance(default, str) or "{{" not in default:
        return code(str(default).lower() if isinstance(default, bool) else default)
    values = {"project_name": "Orders API", "project_slug": "orders-api"}
    return f"{code(jinja2.Template(default).render(values))} for a service named Orders API"


def _complaint(validator: str) -> str:
    """Return the first line that a validator answers with."""
    output = re.findall(r"%}((?:(?!%}|{%).)+){%", validator, re.DOTALL)
    lines = [" ".join(line.split()) for line in output if line.strip()]
    return lines[0] if lines else ""


# ── Settings ──────────────────────────────────────────────────────────────────────────────────


def settings_page(services: dict[str, Project], with_database: Project) -> str:
    """Return the environment variables, with their comments in `.env.example`."""
    service, *_ = services.values()
    schema = schema_of(service, "serving", "ServingSettings")
    of_database = {
        name: field
        for name, field in schema_of(with_database, "serving.database", "DatabaseSettings").items()
        if name not in schema
    }
    text = (
        "# Settings\n\n"
        "The environment variables of `serving/settings.py`. With an invalid value the\n"
        "service does not start, and prints one line that names the variable.\n"
        "`python -m PACKAGE.serving` prints the values in effect.\n\n"
    )
    text += settings_table(schema, service)
    text += f"\nWith {WITH_DATABASE}, from `serving/database/settings.py`:\n\n"
    text += settings_table(of_database, with_database)
    text += "\nOther variables that the server reads, with their defaults:\n"
    for target, service in services.items():
        printed = service.run(service.program("python"), "-m", f"{service.package}.serving").stdout
        own = {name.upper() for name in schema}
        left = [line for line in printed.splitlines() if line.partition("=")[0] not in own]
        assert left, printed
        left = [re.sub(r"^(WEB_CONCURRENCY)=\d+$", _workers(target), line) for line in left]
        text += f"\n`{target}`\n\n" + "".join(f"- `{line}`\n" for line in left)
    return text


def schema_of(service: Project, module: str, name: str) -> dict[str, dict[str, Any]]:
    """Return the fields of a settings class as JSON Schema."""
    program = SCHEMA.format(package=service.package, module=module, name=name)
    printed = service.run(service.program("python"), "-c", program).stdout
    fields: dict[str, dict[str, Any]] = json.loads(printed)
    return fields


def settings_table(schema: dict[str, dict[str, Any]], service: Project) -> str:
    """Return the table of some settings."""
    example = re.sub(r"^.*?\n\n", "", (service.path / ".env.example").read_text(), flags=re.DOTALL)
    comments: dict[str, str] = {}
    comment = ""
    for line in example.splitlines():
        if match := re.match(r"#?(\w+)=", line):
            comments[match[1].lower()] = comment
        else:
            comment = line.removeprefix("# ") if line else ""
    rows = [
        (
            code(name.upper()),
            _written(field.get("default")),
            "; ".join(_accepted(field)),
            comments[name],
        )
        for name, field in schema.items()
    ]
    return table(("variable", "default", "accepts", "description"), rows)


def _workers(target: str) -> str:
    return r"\1=1" if target == "kubernetes" else r"\1=one per usable CPU, as far as memory allows"


def _accepted(field: dict[str, Any]) -> Iterator[str]:
    for kind in field.get("anyOf", [field]):
        if "$ref" in kind:
            yield "`development`, `staging` or `production`"
        elif "enum" in kind:
            yield ", ".join(map(code, kind["enum"]))
        elif kind["type"] == "array":
            yield "comma-separated list"
        elif kind["type"] == "boolean":
            yield "`true` or `false`"
        elif kind["type"] in ("integer", "number"):
            bounds = {
                "minimum": "at least {}",
                "exclusiveMinimum": "greater than {}",
                "maximum": "at most {}",
            }
            limits = [words.format(f"{kind[k]:g}") for k, words in bounds.items() if k in kind]
            yield ", ".join([kind["type"], *limits])
        elif kind["type"] == "string":
            yield "string"


def _written(default: object) -> str:
    if isinstance(default, list):
        return "<br>".join(map(code, default))
    return code(f"{default:g}" if isinstance(default, float) else default)


# ── Metrics and the log, from running services ────────────────────────────────────────────────


def observed(service: Project) -> tuple[str, list[dict[str, Any]]]:
    """Return the metrics and the log of a service after some requests."""
    (service.path / "broken.py").write_text(BROKEN.format(package=service.package))
    port = free_port()
    settings = {
        "METRICS_PORT": str(port),
        "WEB_CONCURRENCY": "1",
        # Nothing listens on these.
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "DATABASE_URL": f"postgresql://service@127.0.0.1:{free_port()}/service",
    }
    log = service.path / "log"
    with serve(service, log, "broken:app", settings) as server:
        trace = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
        server.get("/large-response", traceparent=trace)
        server.get("/broken")
        with connect(f"ws://127.0.0.1:{server.port}/socket") as socket:
            socket.send("done")
        server.wait_for_log('"exception"')
        server.wait_for_log('"event":"websocket"')
        response: HttpResponse = type(server)(server.process, port, log).get("/metrics")
        return response.body.decode(), server.events


def metrics_page(scrapes: dict[str, str], with_database: str) -> str:
    """Return the metrics of each target and of a database: name, type, labels and help."""
    where: dict[tuple[str, ...], list[str]] = {}
    for target, scrape in scrapes.items():
        for family in families(scrape):
            where.setdefault(family, []).append(code(target))
    for family in families(with_database):
        where.setdefault(family, [WITH_DATABASE])
    rows = [
        (code(name), kind, ", ".join(map(code, labels.split())), what, " ".join(targets))
        for (name, kind, labels, what), targets in where.items()
    ]
    return (
        "# Metrics\n\nThe metrics of `GET /metrics` on port 9090, from a scrape of each target.\n\n"
        + table(("name", "type", "labels", "description", "available with"), rows)
    )


def families(scrape: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, labels and help of the metrics in a scrape, without `_created`."""
    for name, what, kind in re.findall(r"^# HELP (\S+) (.*)\n# TYPE \1 (\w+)$", scrape, re.M):
        if name.endswith("_created"):
            continue
        labels: dict[str, None] = {}
        samples = re.findall(rf"^{name}(?:_bucket|_sum|_count|_total)?{{(.*)}} ", scrape, re.M)
        for sample in samples:
            labels |= dict.fromkeys(re.findall(r'(\w+)="', sample))
        for internal in ("le", "pid"):
            labels.pop(internal, None)
        yield name, kind, " ".join(labels), what


def log_page(lines: list[dict[str, Any]]) -> str:
    """Return the fields of a request's line, of a WebSocket's, and of all others."""
    requests = [line for line in lines if line["event"] == "request"]
    sockets = [line for line in lines if line["event"] == "websocket"]
    others = [line for line in lines if line["event"] not in ("request", "websocket")]
    seen = {name for line in lines for name in line}
    if seen != FIELDS.keys():
        raise ValueError(f"documented or seen, not both: {', '.join(sorted(seen ^ FIELDS.keys()))}")
    rows = [
        (
            code(name),
            _presence(name, requests),
            _presence(name, sockets),
            _presence(name, others),
            " or ".join(sorted({JSON[type(line[name])] for line in lines if name in line})),
            what,
        )
        for name, what in FIELDS.items()
    ]
    return (
        "# The log\n\nIn staging and production, each line on standard output is a JSON object.\n"
        "Values of the names in `LOG_MASKED` are masked. `extra` of a logging call adds fields.\n\n"
        + table(("field", "request", "WebSocket", "other lines", "type", "description"), rows)
    )


JSON = {str: "string", int: "number", float: "number", type(None): "null"}


def _presence(name: str, lines: list[dict[str, Any]]) -> str:
    has = [name in line for line in lines]
    return "always" if all(has) else "some" if any(has) else ""


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def files_page() -> str:
    """Return each path of a service, with its owner from docs/reference/ownership.md."""
    paths = {
        target: (ROOT / f"tests/manifest/{target}.txt").read_text().splitlines()
        for target in TARGETS
    }
    rows = []
    for path in sorted({path for found in paths.values() for path in found}):
        targets = [target for target, found in paths.items() if path in found]
        shown = path.replace("zebra_9_ledger", "PACKAGE").replace("zebra-9-ledger", "SLUG")
        only = "" if len(targets) == len(TARGETS) else code(targets[0])
        rows.append((code(shown), only, owner(path, "zebra_9_ledger")))
    return (
        "# Files\n\n"
        "The files of a service with the default answers, and [their owners](ownership.md).\n\n"
        + table(("path", "only on", "owner"), rows)
    )


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(exist_ok=True)
    with TemporaryDirectory() as directory:
        for name, text in pages(Path(directory)).items():
            (REFERENCE / name).write_text(WRITTEN + text)
            print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
