"""Reload, restart, recycling and killed processes of a service under load, on a booted Debian."""

import re
from collections.abc import Iterator
from functools import partial

import pytest

from ..harness.load import Tally
from ..harness.service import Service

REPEATS = pytest.mark.parametrize("repeat", range(1, 4))
CONNECTIONS = 16
"""Connections of the load: the maximum of requests in flight."""


def assert_nothing_lost(tally: Tally) -> None:
    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert tally.answered >= 20_000


@REPEATS
def test_reload_loses_no_request(installed: Service, repeat: int) -> None:
    before = set(installed.workers)

    def reload() -> None:
        installed.machine.run("systemctl", "reload", installed.unit)
        installed.machine.wait_until(lambda: not before & set(installed.workers), "replaced")

    assert_nothing_lost(installed.under_load(reload))


@REPEATS
def test_restart_loses_no_request(installed: Service, repeat: int) -> None:
    before = installed.machine.show(installed.unit, "MainPID")

    tally = installed.under_load(
        lambda: installed.machine.run("systemctl", "restart", installed.unit)
    )

    assert_nothing_lost(tally)
    assert installed.machine.show(installed.unit, "MainPID") != before


@REPEATS
def test_killed_worker_loses_only_its_requests_in_flight(installed: Service, repeat: int) -> None:
    victim = installed.workers[0]

    def kill() -> None:
        installed.machine.run("kill", "-9", str(victim))
        installed.machine.wait_until(
            lambda: victim not in installed.workers and len(installed.workers) == 2, "replaced"
        )

    tally = installed.under_load(kill)

    assert tally.lost + tally.failed <= CONNECTIONS, tally
    assert tally.refused == 0
    assert tally.answered >= 20_000
    assert victim not in installed.workers


def test_systemd_restarts_a_killed_master_and_requests_wait_for_it(installed: Service) -> None:
    machine = installed.machine
    master = machine.show(installed.unit, "MainPID")

    def kill() -> None:
        machine.run("kill", "-9", master)
        machine.wait_until(
            lambda: machine.show(installed.unit, "MainPID") not in (master, "0"), "back"
        )

    tally = installed.under_load(kill, requests=5_000)

    assert tally.lost + tally.failed <= CONNECTIONS, tally
    assert tally.refused == 0


def test_service_survives_a_restart_of_journald(installed: Service) -> None:
    """The master is killed and restarted."""
    machine = installed.machine

    def disturb() -> None:
        machine.run("systemctl", "kill", "--signal=KILL", "systemd-journald")
        machine.run("systemctl", "restart", "systemd-journald")

    tally = installed.under_load(disturb, requests=5_000)

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert any("/version" in line for line in machine.journal(installed.unit)[-50:])


@pytest.fixture
def stingy(installed: Service) -> Iterator[Service]:
    """The service on a machine whose journal accepts 100 lines by default."""
    machine, limit = installed.machine, "/run/systemd/journald.conf.d/limit.conf"
    machine.run("install", "-D", "/dev/stdin", limit, stdin="[Journal]\nRateLimitBurst=100\n")
    machine.run("systemctl", "restart", "systemd-journald")
    yield installed
    machine.run("rm", limit)
    machine.run("systemctl", "restart", "systemd-journald")


def test_journal_has_one_line_for_each_request_under_load(stingy: Service) -> None:
    tally = stingy.under_load(lambda: None, requests=5_000, paths=("/hold?seconds=0",))

    def lines() -> int:
        return sum('"route":"/hold"' in line for line in stingy.machine.journal(stingy.unit))

    stingy.machine.wait_until(lambda: lines() >= tally.answered, "logged")
    assert lines() == tally.answered


def counted(service: Service, path: str) -> int:
    """Return the number of requests of a route, by the metrics of any worker."""
    url = "http://127.0.0.1:9090/metrics"
    metrics = service.machine.run("curl", "--silent", "--fail", url).stdout
    line = rf'^http_request_duration_seconds_count{{.*route="{path}".*}} ([0-9.e+]+)$'
    return sum(int(float(count)) for count in re.findall(line, metrics, re.MULTILINE))


def test_four_workers_share_counts_across_reload_and_kill(installed: Service) -> None:
    machine = installed.machine
    installed.settings("WEB_CONCURRENCY=4\n")
    machine.run("systemctl", "restart", installed.unit)
    machine.wait_until(lambda: len(installed.workers) == 4, "four")
    workers = installed.workers

    def die_and_reload() -> None:
        machine.run("kill", "-9", str(workers[0]))
        machine.run("systemctl", "reload", installed.unit)
        machine.wait_until(lambda: not set(workers) & set(installed.workers), "replaced")

    def has_counted(number: int) -> bool:
        return counted(installed, "/worker") >= number

    answered = 0
    for event, path in [
        (lambda: None, "/worker"),
        (die_and_reload, "/version"),  # requests of the killed worker had no response
        (lambda: None, "/worker"),
    ]:
        tally = installed.under_load(event, requests=2_000, paths=(path,))
        if path == "/worker":
            answered += tally.answered
        machine.wait_until(partial(has_counted, answered), "counted")  # after the response
        for _ in range(10):  # any worker may respond
            assert counted(installed, "/worker") == answered


@pytest.fixture(scope="module")
def recycling(installed: Service) -> Service:
    """The service with workers that are replaced after few requests."""
    for name, value in {"max_requests": "1_500", "max_requests_jitter": "500"}.items():
        installed.edit("deploy/vm/gunicorn.conf.py", f"^{name} = .*$", f"{name} = {value}")
    installed.deploy()
    return installed


@REPEATS
def test_recycling_loses_no_request(recycling: Service, repeat: int) -> None:
    before = recycling.workers

    def recycle() -> None:
        recycling.machine.wait_until(lambda: not set(before) & set(recycling.workers), "recycled")

    assert_nothing_lost(recycling.under_load(recycle))
