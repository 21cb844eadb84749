"""The CMD of the image, with another application and port."""

import json
import re
import signal
from pathlib import Path

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"
EXIT_AFTER_SIGTERM = -signal.SIGTERM  # 0 as PID 1 of a container


def start_command(application: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the additional environment variables."""
    match = re.search(r"^CMD (\[.*?\])", DOCKERFILE.read_text().replace("\\\n", ""), re.MULTILINE)
    assert match
    command = json.loads(match[1])
    command[1] = application
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = str(port)
    return command, {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": "0"}
