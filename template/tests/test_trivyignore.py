"""A vulnerability is let through with a reason, and until a day."""

from datetime import date
from pathlib import Path

import yaml

IGNORED = Path(__file__).parents[1] / ".trivyignore.yaml"


def test_each_has_a_reason_and_a_day() -> None:
    for kind in yaml.safe_load(IGNORED.read_text()).values():
        for entry in kind:
            assert entry.get("statement"), entry
            assert isinstance(entry.get("expired_at"), date), entry
