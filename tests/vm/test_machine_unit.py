"""The service's unit on a booted Debian: failed starts, rights, limits."""

import json
import re
from collections.abc import Iterator

import pytest

from ..harness import network
from ..harness.machine import Machine
from ..harness.service import SETTINGS, Service


@pytest.fixture
def machine(installed: Service) -> Machine:
    return installed.machine


@pytest.fixture
def mended(installed: Service) -> Iterator[Service]:
    """The service, restored after a test that breaks its settings."""
    yield installed
    installed.settings(SETTINGS)
    installed.machine.run("systemctl", "reset-failed", installed.unit)
    installed.machine.run("systemctl", "restart", installed.unit)


def journal_of(service: Service, *command: str) -> list[str]:
    """Return the unit's journal since the start of a failing command."""
    before = len(service.machine.journal(service.unit))
    # Stopped at once, because systemd starts it again after two seconds.
    script = f'"$@"; status=$?; systemctl stop {service.unit}; exit $status'
    assert service.machine.run("sh", "-c", script, "sh", *command, check=False).returncode != 0
    return service.machine.journal(service.unit)[before:]


def test_reload_of_a_broken_version_keeps_the_old_workers(
    installed: Service, machine: Machine
) -> None:
    """Without a check, HUP would stop gunicorn."""
    machine.wait_until(lambda: len(installed.workers) == 2, "started")
    workers = installed.workers
    config = f"/opt/{installed.slug}/current/deploy/vm/gunicorn.conf.py"
    machine.run("cp", config, "/root/whole.py")
    machine.run("sh", "-c", f"echo 'broken(' >>{config}")

    result = machine.run("systemctl", "reload", installed.unit, check=False)
    machine.run("cp", "/root/whole.py", config)

    assert result.returncode != 0
    assert any("broken(" in line for line in machine.journal(installed.unit))
    assert installed.workers == workers
    assert installed.version == "1"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("ENVIRONMENT=prod\n", "ENVIRONMENT: "),
        ("WEB_CONCURRENCY=many\n", "WEB_CONCURRENCY: "),
        ("METRICS_PORT=port\n", "METRICS_PORT: "),
    ],
)
def test_wrong_setting_prints_one_line(mended: Service, settings: str, line: str) -> None:
    mended.settings(settings)

    lines = journal_of(mended, "systemctl", "restart", mended.unit)

    assert sum(text.startswith(line) for text in lines) == 1, lines
    assert not any("Traceback" in text for text in lines), lines


def test_missing_settings_file_prints_one_line(mended: Service, machine: Machine) -> None:
    machine.run("rm", f"/etc/{mended.slug}/env")

    lines = journal_of(mended, "systemctl", "restart", mended.unit)

    assert any("Failed to load environment files" in line for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines


def test_metrics_port_in_use_prints_one_line(mended: Service, machine: Machine) -> None:
    machine.run("systemctl", "stop", mended.unit)
    squatter = ("python3", "-m", "http.server", "--bind=127.0.0.1", "9090")
    machine.run("systemd-run", "--unit=squatter", *squatter)
    taken = ("curl", "--silent", "--output", "/dev/null", "http://127.0.0.1:9090/")
    machine.wait_until(lambda: machine.run(*taken, check=False).returncode == 0, "taken")

    lines = journal_of(mended, "systemctl", "start", mended.unit)
    machine.run("systemctl", "stop", "squatter")

    assert any("METRICS_PORT=9090: " in line for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines


def test_print_output_is_in_the_journal_immediately(installed: Service) -> None:
    installed.request("/print?text=printed-4711")

    installed.machine.wait_until(
        lambda: "printed-4711" in installed.machine.journal(installed.unit), "printed"
    )


def test_home_is_writable_and_private(installed: Service, machine: Machine) -> None:
    file = installed.request("/cache").strip('"')

    assert file == "/tmp/.cache/orders/entry"
    assert machine.run("ls", file, check=False).returncode != 0, "the host's /tmp has no such file"


def test_memory_and_tasks_are_bounded_by_the_size_of_the_host(
    installed: Service, machine: Machine
) -> None:
    host = int(re.findall(r"^MemTotal: +(\d+) kB", machine.run("cat", "/proc/meminfo").stdout)[0])
    threads = int(machine.run("cat", "/proc/sys/kernel/threads-max").stdout)

    assert host * 1024 * 0.89 < int(machine.show(installed.unit, "MemoryMax")) < host * 1024 * 0.91
    assert 0 < int(machine.show(installed.unit, "TasksMax")) <= threads / 10


def test_service_without_writable_directories_serves_reloads_and_restarts(
    mended: Service, machine: Machine
) -> None:
    mended.settings(f"{SETTINGS}DATABASE_FILE=/dev/shm/ledger.db\n")
    full = ("/var/log/nginx", "/tmp", "/var/tmp")
    for directory in full:
        machine.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
    machine.run("systemctl", "restart", "nginx", mended.unit)  # they use the directories now
    for directory in full:
        machine.run("sh", "-c", f"yes >{directory}/full", check=False)

    def reload_and_restart() -> None:
        machine.run("systemctl", "reload", mended.unit)
        machine.run("systemctl", "restart", mended.unit)

    tally = mended.under_load(reload_and_restart, requests=2_000)
    for directory in full:
        machine.run("umount", "--lazy", directory)
    machine.run("systemctl", "restart", "nginx", mended.unit)

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally


def test_server_sent_events_are_not_buffered(mended: Service, machine: Machine) -> None:
    mended.settings("WEB_CONCURRENCY=1\n")  # each worker has its own rooms
    machine.run("systemctl", "restart", mended.unit)
    with network.connect(80, machine.namespace) as stream:
        stream.sendall(b"GET /room/events?limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = stream.makefile("rb")
        for text in ("open", "first", "second"):
            if text != "open":
                mended.request("/room", "--json", json.dumps({"text": text}))
            while text not in (line := received.readline().decode()):
                assert line, "the stream has ended"


@pytest.mark.parametrize("path", ["/transfers", "/async-transfers"])
def test_service_writes_to_its_database(installed: Service, path: str) -> None:
    order = {"reference": path, "source": 1, "target": 2, "amount": 5}

    assert installed.status(path, "--json", json.dumps(order)) == 201
    assert installed.request(f"/entries?reference={path}") == "[-5,5]"


def test_service_starts_after_a_reboot(installed: Service, machine: Machine) -> None:
    machine.reboot()

    machine.wait_until(lambda: installed.status("/version") == 200, "back")
    assert installed.version == "1"
    assert installed.status("/health/ready") == 200
