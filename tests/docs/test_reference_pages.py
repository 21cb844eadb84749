"""Generated pages match copier.yml, the settings, a scrape, a log and the manifests."""

import pytest

from ..harness import reference

AGAIN = "run .venv/bin/python -m tests.harness.reference"


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The generated pages, from the current sources."""
    return reference.pages(tmp_path_factory.mktemp("reference"))


def test_generated_pages_are_current(now: dict[str, str]) -> None:
    pages = {page.name: page.read_text() for page in reference.REFERENCE.glob("*.md")}
    written = {name: text for name, text in pages.items() if text.startswith(reference.WRITTEN)}

    assert written == {name: reference.WRITTEN + text for name, text in now.items()}, AGAIN


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("questions.md", "## `deployment`"),
        ("settings.md", "| `METRICS_PORT` | `9090` | integer, at least 0, at most 65535 |"),
        (
            "metrics.md",
            "| `http_request_duration_seconds` | histogram | `method`, `route`, `status` |",
        ),
        ("log.md", "| `trace_id` | always |"),
        ("files.md", "| `src/PACKAGE/serving/process/worker.py` | `vm` | template |"),
    ],
)
def test_reference_lists_every_question_setting_metric_and_file(
    now: dict[str, str], page: str, line: str
) -> None:
    assert line in now[page]


def test_undocumented_log_field_is_reported() -> None:
    line = dict.fromkeys(reference.FIELDS, "")

    with pytest.raises(ValueError, match="documented or seen, not both: news"):
        reference.log_page([line | {"news": 1}])


def test_validator_is_documented_by_its_message() -> None:
    page = reference.questions_page()

    assert "without a double quote, a backslash, $, %, { or } |" in page
    assert "an IPv4 network without host bits such as 10.244.0.0/16, from /8 to /32 |" in page
