"""What systemd, gunicorn or an admin does to the service of a booted Debian under load."""

import pytest

from .harness.load import Tally
from .harness.service import Service

REPEATS = range(1, 6)
CONNECTIONS = 16
"""Of the load: no more requests can be in flight."""


@pytest.fixture(scope="module")
def recycling(installed: Service) -> Service:
    """The service with workers that are replaced after few requests."""
    installed.edit("deploy/vm/gunicorn.conf.py", r"^max_requests = .*$", "max_requests = 1_500")
    installed.edit("deploy/vm/gunicorn.conf.py", r"^max_requests_jitter = .*$", "max_requests_jitter = 500")
    installed.deploy()
    return installed


def assert_nothing_lost(tally: Tally) -> None:
    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert tally.answered >= 20_000


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_reload_loses_no_request(installed: Service, repeat: int) -> None:
    before = set(installed.workers)

    def reload() -> None:
        installed.machine.run("systemctl", "reload", installed.unit)
        installed.machine.wait_until(lambda: not before & set(installed.workers), "replaced")

    assert_nothing_lost(installed.under_load(reload))
