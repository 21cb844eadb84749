"""Each ignored vulnerability has a reason and an expiry date."""

import re
from pathlib import Path

IGNORED = Path(__file__).parents[1] / ".trivyignore.yaml"


def test_each_entry_has_a_reason_and_an_expiry_date() -> None:
    _, *entries = re.split(r"^ *- ", IGNORED.read_text(), flags=re.MULTILINE)

    for entry in entries:
        assert re.search(r"^ *statement: *\S", entry, re.MULTILINE), entry
        assert re.search(r"^ *expired_at: *\d{4}-\d\d-\d\d$", entry, re.MULTILINE), entry
