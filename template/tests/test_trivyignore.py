"""A vulnerability is let through with a reason, and until a day."""

import re
from pathlib import Path

IGNORED = Path(__file__).parents[1] / ".trivyignore.yaml"


def test_each_has_a_reason_and_a_day() -> None:
    _, *entries = re.split(r"^ *- ", IGNORED.read_text(), flags=re.MULTILINE)

    for entry in entries:
        assert re.search(r"^ *statement: *\S", entry, re.MULTILINE), entry
        assert re.search(r"^ *expired_at: *\d{4}-\d\d-\d\d$", entry, re.MULTILINE), entry
