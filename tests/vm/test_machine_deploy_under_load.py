"""A deploy and a rollback on a booted Debian, under load: no request is lost."""

import pytest

from ..harness.load import Tally
from ..harness.service import DEPLOY_RATE, Service

REPEATS = range(1, 4)


def nothing_lost(tally: Tally) -> bool:
    return (tally.lost, tally.failed, tally.refused) == (0, 0, 0) and tally.answered >= 20_000


@pytest.mark.parametrize("repeat", REPEATS)
def test_deploy_and_rollback_lose_no_request(installed: Service, repeat: int) -> None:
    before, new = installed.version, f"new-{repeat}"
    installed.release(new)

    forth = installed.under_load(installed.deploy, rate=DEPLOY_RATE)
    assert installed.version == new
    back = installed.under_load(lambda: installed.deploy("--rollback"), rate=DEPLOY_RATE)
    assert installed.version == before

    assert nothing_lost(forth), forth
    assert nothing_lost(back), back
