"""The command of the unit, with another application, and a port instead of the socket."""

EXIT_AFTER_SIGTERM = 0


def start_command(application: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the additional environment variables."""
    command = ["gunicorn", "--config", "deploy/vm/gunicorn.conf.py", application]
    return command, {"BIND": f"127.0.0.1:{port}", "METRICS_PORT": "0"}
