"""Dashboard and alerts use only metrics that the service exposes."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.sync.client import connect

from ..conftest import Render
from ..harness.pages import FENCE
from ..harness.project import Project
from ..harness.prometheus import Expression, Prometheus, missing_tools, promtool, scraping
from ..harness.reference import BROKEN, families
from ..harness.server import Server, free_port, serve
from ..harness.wait import WAIT_SECONDS, wait_until
from ..kubernetes.test_manifests import kustomize, of_kind

if missing := missing_tools():
    pytest.skip(f"no alerts without {', '.join(missing)}", allow_module_level=True)


OF_A_POD = {"namespace", "pod", "container", "endpoint"}
"""Labels that the Prometheus operator adds to targets of a PodMonitor, in addition to `job`."""

Rules = dict[str, Any]


def each(target: str) -> str:
    """Return the label that identifies an instance."""
    return "pod" if target == "kubernetes" else "instance"


def target_labels(target: str) -> set[str]:
    """Return the labels that the scrape adds."""
    return {"job", "instance"} | (OF_A_POD if target == "kubernetes" else set())


def rules_file(project: Project) -> Path:
    """Return the path of a project's rules."""
    [file] = [*project.path.glob("deploy/**/*.rules.yml"), *project.path.glob("**/*rule.yaml")]
    return file


def rules_of(project: Project) -> Rules:
    """Return a project's rules as Prometheus reads them."""
    rules: Rules = yaml.safe_load(rules_file(project).read_text())
    return dict(rules.get("spec", rules))


def every(kind: str, rules: Rules) -> list[dict[str, Any]]:
    """Return the rules that are an `alert`, or a `record`."""
    return [rule for group in rules["groups"] for rule in group["rules"] if kind in rule]


def job_of(project: Project) -> str:
    """Return the value of `job` in the rules."""
    jobs: set[str] = set(re.findall(r'job="(.+?)"', rules_file(project).read_text()))
    [job] = jobs
    return job


def panels(project: Project) -> dict[str, list[str]]:
    """Return the expressions of each panel, with Grafana's variables replaced."""
    dashboard = json.loads((project.path / "deploy/dashboard.json").read_text())
    filled_in = {"$job": job_of(project), "$__rate_interval": "1m"}
    found: dict[str, list[str]] = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in filled_in.items():
                text = text.replace(variable, value)
            found.setdefault(panel["title"], []).append(text)
    return found


def expressions(project: Project) -> list[Expression]:
    """All expressions of the dashboard and the rules."""
    rules = rules_of(project)
    shown = [text for texts in panels(project).values() for text in texts]
    requested = [rule["expr"] for rule in every("record", rules) + every("alert", rules)]
    return [Expression(text) for text in shown + requested]


@pytest.fixture(scope="module")
def rendered(render: Render, target: str) -> Project:
    """The project of each target."""
    return render(deployment=target)


# ── Alerts: texts and runbook ─────────────────────────────────────────────────────────────────


def test_promtool_accepts_the_rules(rendered: Project, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(rules_of(rendered)))
    check = ("check", "rules", "--lint=all", "--lint-fatal", rules)

    assert promtool(*check) == ""
    rules.write_text(rules.read_text().replace("humanizePercentage", "humanise"))
    assert "humanise" in promtool(*check)


def test_each_alert_has_a_severity_and_a_runbook_entry(rendered: Project) -> None:
    readme = (rendered.path / "deploy/README.md").read_text()
    _, _, runbook = readme.partition("\n## Alerts\n")
    table = [line.split(" | ")[0] for line in runbook.splitlines() if line.startswith("| `")]
    alerts = every("alert", rules_of(rendered))

    for alert in alerts:
        assert re.fullmatch(r"\d+m", alert["for"]), alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "runbook"}
        assert alert["annotations"]["runbook"] == "deploy/README.md#alerts"
    assert re.findall(r"`(\w+)`", "".join(table)) == [alert["alert"] for alert in alerts]


def test_readme_names_the_alert_and_dashboard_files(rendered: Project, target: str) -> None:
    readme = (rendered.path / "deploy/README.md").read_text()
    rules = {"kubernetes": "kubernetes/components/alerts", "vm": "zebra-9-ledger.rules.yml"}

    assert "`dashboard.json`" in readme
    assert rules[target] in readme


def test_labels_in_summaries_exist(rendered: Project, target: str) -> None:
    """Prometheus prints nothing for a missing label."""
    rules = rules_of(rendered)
    recorded = {rule["record"] for rule in every("record", rules)}

    for alert in every("alert", rules):
        requested = Expression(alert["expr"])
        own = {"job"} if requested.metrics.keys() & recorded else target_labels(target)
        named = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        assert named <= ((requested.grouped - {"le"}) or own), alert["alert"]
        assert "job" in named


@pytest.mark.parametrize("seconds", [1, 30, 3600])
def test_route_slow_fires_at_half_of_the_budget(render: Render, target: str, seconds: int) -> None:
    alerts = every("alert", rules_of(render(deployment=target, request_timeout_seconds=seconds)))
    [slow] = [alert for alert in alerts if alert["alert"] == "RouteSlow"]

    assert float(slow["expr"].rpartition(" > ")[2]) == seconds / 2


# ── When they fire ────────────────────────────────────────────────────────────────────────────

REQUESTS = "http_request_duration_seconds_count{{status='{status}',route='{route}'}}"
BUCKET = "http_request_duration_seconds_bucket{{le='{le}',route='{route}'}}"
LAG = "event_loop_lag_seconds_bucket{{le='{le}'}}"


def requests(status: int, values: str, route: str = "/orders") -> dict[str, str]:
    """Return a counter by minute, for promtool."""
    return {REQUESTS.format(status=status, route=route): values}


def durations(route: str = "/orders", **buckets: str) -> dict[str, str]:
    """Return histogram buckets by minute, for promtool: `le_10` and so on."""
    found = {name.removeprefix("le_"): values for name, values in buckets.items()}
    return {BUCKET.format(le=le, route=route): values for le, values in found.items()}


def lags(**buckets: str) -> dict[str, str]:
    """Return buckets of the event loop lag, in milliseconds: `le_100`."""
    seconds = {str(int(name[3:]) / 1000): values for name, values in buckets.items()}
    return {LAG.format(le=le): v for le, v in seconds.items()} | {
        LAG.format(le="+Inf"): list(buckets.values())[-1]
    }


@dataclass(frozen=True)
class Case:
    """Some series, and the alerts that fire after some minutes."""

    series: dict[str, str]
    fire: dict[int, str]
    up: str = "1x500"


FAST, SLOWLY = "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"
CASES = {
    "all is well": Case(requests(200, "0+1000x500"), {10: "", 60: ""}),
    "one in twenty fails": Case(
        requests(200, "0+950x500") | requests(500, "0+50x500"),
        {1: "", 5: FAST, 30: f"{FAST} {SLOWLY}"},
    ),
    "so many get a 503 or 504": Case(
        requests(200, "0+95x500") | requests(503, "0+3x500") | requests(504, "0+2x500"),
        {5: FAST},
    ),
    "it is over": Case(
        requests(200, "0+950x500") | requests(500, "0+50x60 3000x440"),
        {60: f"{FAST} {SLOWLY}", 70: SLOWLY, 120: ""},
    ),
    "one in a hundred fails": Case(
        requests(200, "0+990x500") | requests(500, "0+10x500"), {10: "", 30: SLOWLY, 400: SLOWLY}
    ),
    "one in two thousand fails": Case(
        requests(200, "0+1999x500") | requests(500, "0+1x500"), {30: "", 400: ""}
    ),
    "three fail at night": Case(requests(200, "0+2x500") | requests(500, "0x30 3x470"), {34: ""}),
    "twenty fail at night": Case(
        requests(200, "0+2x500") | requests(500, "0x30 20x470"), {31: "", 34: FAST}
    ),
    "clients are wrong": Case(requests(404, "0+1000x500"), {30: "", 60: ""}),
    "it is not ready": Case(
        requests(200, "0+1x500") | requests(503, "0+99x500", "/health/ready"), {30: "", 60: ""}
    ),
    "one in ten is slow": Case(
        durations(le_10="0+90x500", le_30="0+100x500", **{"le_+Inf": "0+100x500"}),
        {5: "", 20: "RouteSlow", 60: "RouteSlow"},
    ),
    "none is slow": Case(
        durations(le_10="0+100x500", le_30="0+100x500", **{"le_+Inf": "0+100x500"}),
        {20: "", 60: ""},
    ),
    "a single one is slow": Case(
        durations(le_10="0x500", le_30="0x10 1x490", **{"le_+Inf": "0x10 1x490"}),
        {12: "", 16: "", 22: "", 60: ""},
    ),
    "a health check is slow": Case(
        durations("/health/ready", le_10="0x500", le_30="0+9x500", **{"le_+Inf": "0+9x500"}),
        {60: ""},
    ),
    "none is up": Case({}, {1: "", 3: "ServiceDown", 10: "ServiceDown InstanceDown"}, up="0x500"),
    "none is there": Case({}, {1: "", 3: "ServiceDown", 60: "ServiceDown"}, up=""),
    "one of two is up": Case(
        {"up{other='1'}": "0x500"}, {3: "", 10: "InstanceDown", 60: "InstanceDown"}
    ),
    "it is being restarted": Case({}, {9: "", 11: "", 14: ""}, up="1x8 0x1 1x490"),
    "the loop is late": Case(
        lags(le_100="0+30x500", le_250="0+60x500"), {5: "", 20: "EventLoopBlocked"}
    ),
    "the loop is late now and then": Case(
        lags(le_50="0+58x500", le_100="0+58x500", le_250="0+60x500"), {60: ""}
    ),
    "calls wait for threads": Case(
        {"threads_waiting{}": "46x500"}, {3: "", 10: "ThreadsExhausted"}
    ),
    "calls wait in most samples": Case(
        {"threads_waiting{}": "2 2 0 " * 99 + "2"}, {10: "ThreadsExhausted", 60: "ThreadsExhausted"}
    ),
    "one burst waits for threads": Case(
        {"threads_waiting{}": "0x9 30 0x490"}, {10: "", 14: "", 16: "", 60: ""}
    ),
    "a call waits now and then": Case({"threads_waiting{}": "1 0 " * 149 + "1"}, {10: "", 60: ""}),
    "threads are busy and no call waits": Case(
        {"threads_in_use{}": "40x500", "threads_waiting{}": "0x500", "threads_limit{}": "40x500"},
        {10: "", 60: ""},
    ),
    "it is full": Case(
        {"http_requests_in_flight{}": "450x500", "http_requests_in_flight_limit{}": "500x500"},
        {3: "", 10: "Saturated"},
    ),
    "it is busy": Case(
        {"http_requests_in_flight{}": "350x500", "http_requests_in_flight_limit{}": "500x500"},
        {10: "", 60: ""},
    ),
}
OF_TARGET = {
    "kubernetes": {
        "files run out": Case(
            {"process_open_fds{}": "900x500", "process_max_fds{}": "1024x500"},
            {3: "", 10: "FilesRunOut"},
        ),
        "files are open": Case(
            {"process_open_fds{}": "600x500", "process_max_fds{}": "1024x500"}, {10: "", 60: ""}
        ),
    },
    "vm": {},
}


def off(rules: Rules, job: str, cases: dict[str, Case], directory: Path) -> str:
    """Return promtool's output for cases in which other alerts fire than expected."""
    (directory / "rules.yml").write_text(yaml.safe_dump(rules))
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [
                {"series": located(series, job), "values": values}
                for series, values in ({"up{}": case.up} | case.series).items()
                if values
            ],
            "promql_expr_test": [
                {
                    "expr": firing,
                    "eval_time": f"{minutes}m",
                    "exp_samples": [
                        {"labels": f'{{alertname="{alert}"}}', "value": 1}
                        for alert in alerts.split()
                    ],
                }
                for minutes, alerts in case.fire.items()
            ],
        }
        for name, case in cases.items()
    ]
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "test.yml").write_text(yaml.safe_dump(test))
    return promtool("test", "rules", directory / "test.yml")


def located(series: str, job: str) -> str:
    """Return a series with the labels of one that is scraped."""
    labels = f"job='{job}',instance='10.0.0.1:9090',pod='ledger-1'"
    return series.replace("}", f",{labels}}}").replace("{,", "{").replace("'", '"')


def test_alerts_fire_only_under_their_condition(
    rendered: Project, target: str, tmp_path: Path
) -> None:
    cases = CASES | OF_TARGET[target]
    fired = {
        alert
        for case in cases.values()
        for alerts in case.fire.values()
        for alert in alerts.split()
    }
    rules = rules_of(rendered)

    assert fired == {alert["alert"] for alert in every("alert", rules)}
    assert off(rules, job_of(rendered), cases, tmp_path) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "case"),
    [
        ("14.4 *", "144 *", "one in twenty fails"),
        ("14.4 *", "1.4 *", "one in a hundred fails"),
        ("> 6 *", "> 60 *", "one in a hundred fails"),
        ("> 6 *", "> 0.1 *", "one in two thousand fails"),
        (">= 10", ">= 1", "three fail at night"),
        ('status=~"5.."', 'status="500"', "so many get a 503 or 504"),
        ('status=~"5.."', 'status=~"[45].."', "clients are wrong"),
        (', route!~"/health/.+"', "", "it is not ready"),
        ("> 15", "> 29", "one in ten is slow"),
        ("> 15", "> 9", "none is slow"),
        ("absent(", "vector(0) * absent(", "none is there"),
        ("== 0", "== 2", "one of two is up"),
        ("> 0.1", "> 1", "the loop is late"),
        ("[2m]) >= 1", "[2m]) >= 100", "calls wait for threads"),
        ("[2m]) >= 1", "[2m]) >= 0", "one burst waits for threads"),
        ("[2m]) >= 1", "[30s]) >= 1", "calls wait in most samples"),
        ("avg_over_time", "max_over_time", "a call waits now and then"),
        ("> 0.8", "> 0.95", "it is full"),
        ("> 0.8", "> 0.5", "it is busy"),
        ("ratio_rate5m{", "ratio_rate1h{", "it is over"),
        ("_rate30m{", "_rate6h{", "it is over"),
    ],
)
def test_wrong_rule_fails_a_case(
    render: Render, tmp_path: Path, right: str, wrong: str, case: str
) -> None:
    project = render(deployment="kubernetes")
    rules = rules_of(project)
    changed = 0
    for rule in every("record", rules) + every("alert", rules):
        changed += rule["expr"].count(right)
        rule["expr"] = rule["expr"].replace(right, wrong)

    assert changed
    assert "FAILED" in off(rules, job_of(project), {case: CASES[case]}, tmp_path)


# ── Expressions against a running service ─────────────────────────────────────────────────────


@dataclass(frozen=True)
class Scraped:
    """A service and a Prometheus that scrapes it."""

    project: Project
    server: Server
    metrics: Server
    prometheus: Prometheus

    def request(self) -> None:
        """Send requests with status 200, 404 and 500, open a WebSocket, and wait for the counts.

        A request is counted after its response; another worker may be scraped before.
        """
        before = self._counted()
        responses = [self.server.get(path).status for path in ("/large-response", "/no", "/broken")]
        assert responses == [200, 404, 500]
        with connect(f"ws://127.0.0.1:{self.server.port}/socket") as socket:
            socket.send("done")
        wait_until(lambda: self._counted() >= before + 4, "counted", lambda: self.text)

    def _counted(self) -> float:
        """Return the number of requests and WebSockets so far."""
        counts = r"^(?:http_request|websocket)_duration_seconds_count\S* (\S+)$"
        return sum(map(float, re.findall(counts, self.text, re.MULTILINE)))

    @property
    def text(self) -> str:
        """The metrics that it exposes."""
        return self.metrics.get("/metrics").body.decode()


@pytest.fixture(scope="module")
def scraped(
    project: Project, target: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    directory = tmp_path_factory.mktemp("scraped")
    (directory / "broken.py").write_text(BROKEN.format(package=project.package))
    (directory / "prometheus").mkdir()
    (directory / "prometheus/rules.yml").write_text(yaml.safe_dump(rules_of(project)))
    port = free_port()
    env = {
        "PYTHONPATH": str(directory),
        "METRICS_PORT": str(port),
        "WEB_CONCURRENCY": "2" if target == "vm" else "1",
    }
    configuration = {
        "scrape_configs": [scrape_config(project, f"127.0.0.1:{port}")],
        "rule_files": ["rules.yml"],
    }
    with (
        serve(project, directory / "log", "broken:app", env) as server,
        scraping(configuration, directory / "prometheus") as prometheus,
    ):
        metrics = Server(server.process, port, server.log_file)
        yield Scraped(project, server, metrics, prometheus)


def scrape_config(project: Project, address: str) -> dict[str, Any]:
    """Return the scrape configuration: that of the README, or that of the PodMonitor."""
    if project.answers["deployment"] == "vm":
        readme = (project.path / "deploy/README.md").read_text()
        [told] = [text for _, language, text in FENCE.findall(readme) if language == "yaml"]
        told = yaml.safe_load(told)
        assert told["rule_files"] == [rules_file(project).name]
        [config] = told["scrape_configs"]
        [static] = config["static_configs"]
        return {**config, "static_configs": [{**static, "targets": [address]}]}
    manifests = kustomize(project.path / "deploy/kubernetes/overlays/production")
    [monitor] = of_kind("PodMonitor", manifests)
    job = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    labels = dict.fromkeys(OF_A_POD, "some")
    return {"job_name": job, "static_configs": [{"targets": [address], "labels": labels}]}


def exposed(text: str) -> dict[str, set[str]]:
    """Return the labels of each metric in a scrape."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def unknown(asked: list[Expression], text: str, rules: Rules, of_target: set[str]) -> Iterator[str]:
    """Yield metrics and labels in expressions that no scrape contains."""
    known = exposed(text) | {"up": set()}
    known |= {rule["record"]: Expression(rule["expr"]).grouped for rule in every("record", rules)}
    for expression in asked:
        yield from expression.bare
        there = set(of_target)
        for name, labels in expression.metrics.items():
            if name not in known:
                yield name
            there |= known.get(name, set())
            yield from labels - known.get(name, set()) - of_target
        yield from expression.grouped - there


def test_every_name_and_label_is_exposed(scraped: Scraped, target: str) -> None:
    scraped.request()
    requested, rules = expressions(scraped.project), rules_of(scraped.project)
    text, of_target = scraped.text, target_labels(target)

    assert len(requested) >= 28
    assert list(unknown(requested, text, rules, of_target)) == []
    for right, wrong in [
        ("_duration_seconds_count", "_duration_second_count"),
        ("by (route, le)", "by (rout, le)"),
        ("route!~", "path!~"),
        ("ratio_rate1h", "ratio_rate2h"),
        ("app_info{", "app_info or app_infos{"),
        (f"by ({each(target)})", "by (host)"),
        ("http_requests_in_flight{", "http_requests_in_flight + http_requests_in_flight{"),
        ("threads_waiting{", "threads_queued{"),
        ("by (close_code)", "by (code)"),
    ]:
        worse = [Expression(expression.text.replace(right, wrong)) for expression in requested]
        assert worse != requested, right
        assert list(unknown(worse, text, rules, of_target)) != [], wrong


def ours(scrape: str, project: Project) -> set[str]:
    """Return the service's metrics, without those of prometheus_client itself."""
    code = "import prometheus_client as p; print(p.generate_latest().decode())"
    by_itself = project.run(project.program("python"), "-c", code).stdout
    return {name for name, *_ in set(families(scrape)) - set(families(by_itself))}


def test_dashboard_shows_every_metric_of_the_layer(scraped: Scraped) -> None:
    scraped.request()
    shown = {
        re.sub(r"_(?:bucket|count|sum)$", "", name)
        for texts in panels(scraped.project).values()
        for text in texts
        for name in Expression(text).metrics
    }
    whole = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
    found = ours(scraped.text, scraped.project)

    assert len(found) >= 10
    assert found | whole == shown


def test_every_panel_has_data_and_every_rule_is_evaluated(scraped: Scraped) -> None:
    """Queries like Grafana's, on the metrics scraped from a running service."""
    shown = panels(scraped.project)
    selectors = {one for requested in expressions(scraped.project) for one in requested.selectors}
    empty: list[str] = []

    def all_have_data() -> bool:
        nonlocal empty
        scraped.request()
        empty = [
            f"{title}: {text}"
            for title, texts in shown.items()
            for text in texts
            if not has_data(scraped.prometheus, text)
        ]
        empty += [one for one in selectors if not has_data(scraped.prometheus, one)]
        empty += [
            f"{rule['name']}: {rule.get('lastError', 'unknown')}"
            for rule in scraped.prometheus.rules()
            if rule["health"] != "ok"
        ]
        return not empty

    wait_until(all_have_data, "with data", lambda: "\n".join(empty), seconds=3 * WAIT_SECONDS)
    assert len(scraped.prometheus.rules()) >= 12


def test_limits_are_the_sum_over_all_workers(scraped: Scraped, target: str) -> None:
    workers = 2 if target == "vm" else 1
    limits = [
        f"http_requests_in_flight_limit {500.0 * workers}\n",
        f"threads_limit {40.0 * workers}\n",
    ]

    def summed() -> bool:  # once all workers have started
        return all(limit in scraped.text for limit in limits)

    wait_until(summed, "the sum", lambda: scraped.text)


def has_data(prometheus: Prometheus, text: str) -> bool:
    """Return whether the result of an expression is a number."""
    return any(math.isfinite(float(series["value"][1])) for series in prometheus.query(text))


def test_dashboard_selects_the_job_of_the_service_only(scraped: Scraped) -> None:
    """Grafana offers each job that has app_info and whose name is the whole of the expression."""
    dashboard = json.loads((scraped.project.path / "deploy/dashboard.json").read_text())
    source, job = dashboard["templating"]["list"]
    slug = scraped.project.answers["project_slug"]

    assert job["query"]["query"] == "label_values(app_info, job)"
    assert re.fullmatch(job["regex"], job_of(scraped.project))
    assert re.fullmatch(job["regex"], f"{slug}-staging/{slug}")
    assert not re.fullmatch(job["regex"], f"other-{slug}")
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}
    assert job["datasource"]["uid"] == f"${{{source['name']}}}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert ids == list(range(1, len(ids) + 1))
