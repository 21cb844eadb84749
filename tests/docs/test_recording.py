"""The picture of `copier copy` shows its current questions and output."""

from pathlib import Path

from ..harness.recording import PICTURE, record


def test_recording_matches_the_output_of_copier(tmp_path: Path) -> None:
    assert record(tmp_path) == PICTURE.read_text(), "python -m tests.harness.recording makes it"
