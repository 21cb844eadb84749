"""Writes the generated pages of docs/reference from the sources and from running services.

`python -m tests.harness.reference` writes it. It renders a service for each target and runs it.
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
from .server import Answer, free_port, serve
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
    "timestamp": "when, UTC, RFC 3339",
    "level": "`debug` to `critical`; of a request `info`, and `warning` from 500 on",
    "logger": "which logger of Python's `logging`; of a request the module that wrote it",
    "event": "what happened; `request` and `websocket` are the one line of each when it ends",
    "method": "of the request; `other` for one that HTTP does not name",
    "route": "as it was declared, `/orders/{id}`; `unmatched` for none",
    "status": "of the answer; of a WebSocket that of its handshake, 101 once it was accepted",
    "close_code": "of a WebSocket, 1006 without a close frame; null for a refused handshake",
    "duration_ms": "from the headers of the request to the end of the answer, or of the WebSocket",
    "bytes": "of the body as it was sent, compressed or not",
    "client": "the address of the client; null if it is unknown",
    "request_id": "as in the header `X-Request-ID` of the answer and in its problem",
    "trace_id": "of the trace: the one of `traceparent`, or with `traces` its own",
    "span_id": "with `traces`: the request's span",
    "exception": "the traceback, secrets masked",
    "stack": "where it was logged, when `stack_info` asks for it",
}
"""What the log says: a field that is missing here, or never seen, stops the writing."""


def pages(directory: Path) -> dict[str, str]:
    """Every page by its name; services and their logs come into an empty directory."""
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
    """A table of Markdown, its cells as they are but for the bars in them."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |\n" for row in lines
    )


def code(value: object) -> str:
    """A value as it is typed; nothing for none."""
    return "" if value in (None, "") else f"`{value}`"


# ── Questions ─────────────────────────────────────────────────────────────────────────────────


def questions_page() -> str:
    """What `copier copy` asks, in its order."""
    asked = {n: q for n, q in questions().items() if q.get("when") is not False}
    text = (
        "# Questions\n\nWhat `copier copy` asks, and `-d NAME=VALUE` answers. Names and values\n"
        "are a public API: they don't change without a migration.\n"
    )
    for name, question in asked.items():
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
    yield "default", _default(default) if default is not None else "none: it must be answered"
    if complaint := _complaint(question.get("validator", "")):
        yield "accepts", complaint
    if condition := question.get("ask"):
        [(name, value)] = re.findall(r"(\w+) == '(\w+)'", condition)
        yield "asked for", code(value if name == "deployment" else f"{name}={value}")


def _default(default: object) -> str:
    """A default; of one that follows from other answers, an example."""
    if not isinstance(default, str) or "{{" not in default:
        return code(str(default).lower() if isinstance(default, bool) else default)
    values = {"project_name": "Orders API", "project_slug": "orders-api"}
    return f"{code(jinja2.Template(default).render(values))} for a service named Orders API"


def _complaint(validator: str) -> str:
    """The first line that a validator answers with."""
    said = re.findall(r"%}((?:(?!%}|{%).)+){%", validator, re.DOTALL)
    lines = [" ".join(line.split()) for line in said if line.strip()]
    return lines[0] if lines else ""


# ── Settings ──────────────────────────────────────────────────────────────────────────────────


def settings_page(services: dict[str, Project], with_database: Project) -> str:
    """Return the variables of the environment, with what `.env.example` says of them."""
    service, *_ = services.values()
    schema = schema_of(service, "serving", "ServingSettings")
    of_database = {
        name: field
        for name, field in schema_of(with_database, "serving.database", "DatabaseSettings").items()
        if name not in schema
    }
    text = (
        "# Settings\n\nVariables of the environment, from `serving/settings.py`. A value that is\n"
        "not accepted stops the start with a line. `python -m PACKAGE.serving` prints\n"
        "those in effect.\n\n"
    )
    text += settings_table(schema, service)
    text += f"\nWith {WITH_DATABASE}, from `serving/database/settings.py`:\n\n"
    text += settings_table(of_database, with_database)
    text += "\nThe server reads by itself, with these defaults:\n"
    for target, service in services.items():
        printed = service.run(service.program("python"), "-m", f"{service.package}.serving").stdout
        own = {name.upper() for name in schema}
        left = [line for line in printed.splitlines() if line.partition("=")[0] not in own]
        assert left, printed
        left = [re.sub(r"^(WEB_CONCURRENCY)=\d+$", _workers(target), line) for line in left]
        text += f"\n`{target}`\n\n" + "".join(f"- `{line}`\n" for line in left)
    return text


def schema_of(service: Project, module: str, name: str) -> dict[str, dict[str, Any]]:
    """Return the fields of a class of settings, as JSON Schema has them."""
    program = SCHEMA.format(package=service.package, module=module, name=name)
    printed = service.run(service.program("python"), "-c", program).stdout
    fields: dict[str, dict[str, Any]] = json.loads(printed)
    return fields


def settings_table(schema: dict[str, dict[str, Any]], service: Project) -> str:
    """Return the table of some settings."""
    example = re.sub(r"^.*?\n\n", "", (service.path / ".env.example").read_text(), flags=re.DOTALL)
    told: dict[str, str] = {}
    comment = ""
    for line in example.splitlines():
        if found := re.match(r"#?(\w+)=", line):
            told[found[1].lower()] = comment
        else:
            comment = line.removeprefix("# ") if line else ""
    rows = [
        (
            code(name.upper()),
            _written(field.get("default")),
            "; ".join(_accepted(field)),
            told[name],
        )
        for name, field in schema.items()
    ]
    return table(("variable", "default", "accepts", "what"), rows)


def _workers(target: str) -> str:
    return r"\1=1" if target == "kubernetes" else r"\1=one for each CPU that has the memory for it"


def _accepted(field: dict[str, Any]) -> Iterator[str]:
    for kind in field.get("anyOf", [field]):
        if "$ref" in kind:
            yield "`development`, `staging` or `production`"
        elif "enum" in kind:
            yield ", ".join(map(code, kind["enum"]))
        elif kind["type"] == "array":
            yield "names, with commas between them"
        elif kind["type"] == "boolean":
            yield "`true` or `false`"
        elif kind["type"] in ("integer", "number"):
            bounds = {
                "minimum": "from {}",
                "exclusiveMinimum": "more than {}",
                "maximum": "up to {}",
            }
            limits = [words.format(f"{kind[k]:g}") for k, words in bounds.items() if k in kind]
            yield " ".join(["a whole number" if kind["type"] == "integer" else "a number", *limits])
        elif kind["type"] == "string":
            yield "text"


def _written(default: object) -> str:
    if isinstance(default, list):
        return "<br>".join(map(code, default))
    return code(f"{default:g}" if isinstance(default, float) else default)


# ── Metrics and the log: as they are seen ─────────────────────────────────────────────────────


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
        answer: Answer = type(server)(server.process, port, log).get("/metrics")
        return answer.body.decode(), server.events


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
        "# Metrics\n\n`GET /metrics` on port 9090, as Prometheus reads them: from a scrape of each"
        " target.\n\n" + table(("name", "type", "labels", "what", "where"), rows)
    )


def families(scrape: str) -> Iterator[tuple[str, str, str, str]]:
    """The name, type, labels and help of what a scrape holds; not when something was made."""
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
    """The fields of a request's line, of a WebSocket's, and of all others."""
    requests = [line for line in lines if line["event"] == "request"]
    sockets = [line for line in lines if line["event"] == "websocket"]
    others = [line for line in lines if line["event"] not in ("request", "websocket")]
    seen = {name for line in lines for name in line}
    if seen != FIELDS.keys():
        raise ValueError(f"told or seen, not both: {', '.join(sorted(seen ^ FIELDS.keys()))}")
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
        "# The log\n\nOne JSON object a line on standard output, in staging and production.\n"
        "Names in `LOG_MASKED` show no value. What a call gives as `extra` is a field of its\n"
        "line, too.\n\n" + table(("field", "request", "WebSocket", "others", "type", "what"), rows)
    )


JSON = {str: "text", int: "number", float: "number", type(None): "null"}


def _presence(name: str, lines: list[dict[str, Any]]) -> str:
    has = [name in line for line in lines]
    return "always" if all(has) else "some" if any(has) else ""


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def files_page() -> str:
    """Return each path of a service, with its owner by docs/reference/ownership.md."""
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
        "# Files\n\nEvery file of a service that answers with the defaults, and"
        " [its owner](ownership.md).\n\n" + table(("path", "only on", "owner"), rows)
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
