"""A rendered project on this machine as on its host: its units, its socket, its nginx site.

Needs Linux and what `missing_tools` looks for. Leaves nothing behind: the processes have a /run
of their own.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .project import Project
from .server import Server, free_port, launch

PRIVATE_RUN = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh"]

# As systemd does it: the socket outlives the process, and `systemctl restart` is a SIGTERM and
# then another process. It ends on any exit status but 0.
RESTARTED = ["bash", "-c", 'while (export LISTEN_PID=$BASHPID; exec "$@"); do :; done', "bash"]

# What a host may have switched on for all its sites must not change this one.
NGINX_CONF = """
user www-data;
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    gzip on;
    gzip_types *;
    gzip_min_length 1;
    include {directory}/site.conf;
}}
"""


def missing_tools() -> list[str]:
    """Names what this machine lacks to be a host: programs, or being `root`."""
    tools = ("nginx", "systemd-analyze", "systemd-socket-activate", "unshare", "nsenter", "bash")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


def unit_file(project: Project, kind: str) -> Path:
    """The rendered systemd unit of that kind: service or socket."""
    return project.path / f"deploy/vm/systemd/{project.answers['project_slug']}.{kind}"


def site_file(project: Project) -> Path:
    """The rendered nginx site."""
    return project.path / f"deploy/vm/nginx/{project.answers['project_slug']}.conf"


def read_unit(file: Path) -> dict[str, list[str]]:
    """The values of each key of a systemd unit, whatever the section."""
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE):
        values.setdefault(key, []).append(value)
    return values


def installed_here(project: Project, text: str) -> str:
    """A unit's text, with the project's own directory as the one where it is installed."""
    return text.replace(f"/opt/{project.answers['project_slug']}", str(project.path))


def nginx_command(site: str, directory: Path) -> list[str]:
    """nginx in the foreground, with that site and no other."""
    (directory / "site.conf").write_text(site)
    (directory / "nginx.conf").write_text(NGINX_CONF.format(directory=directory))
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


@contextmanager
def nginx(
    project: Project, site: str, directory: Path, run_of: Server | None = None
) -> Iterator[Server]:
    """Run nginx with a site on a free port instead of port 80, and wait until it is ready.

    `run_of` is a process whose /run it sees.
    """
    port = free_port()
    site, replaced = re.subn(r"listen 80;", f"listen 127.0.0.1:{port};", site)
    assert replaced == 1
    command = nginx_command(site.replace("listen [::]:80;", ""), directory)
    if run_of:
        command = ["nsenter", f"--target={run_of.process.pid}", "--mount", *command]
    with launch(project, command, directory / "nginx.log", port) as server:
        server.wait_until_ready()
        yield server


@dataclass
class Host:
    """gunicorn as its units start it, and nginx with its site in front."""

    gunicorn: Server
    nginx: Server

    @property
    def masters(self) -> list[int]:
        """The process ids of the gunicorn masters, first to last; at most the last one lives."""
        found = re.findall(r"Listening at: \S+ \((\d+)\)", self.gunicorn.log)
        return [int(pid) for pid in found]


@contextmanager
def run(project: Project, directory: Path) -> Iterator[Host]:
    """Run a project as its host does, but as root; what is left is killed after the block."""
    unit, service = (read_unit(unit_file(project, kind)) for kind in ("socket", "service"))
    (path,), (start,) = unit["ListenStream"], service["ExecStart"]
    settings = [word for value in service["Environment"] for word in shlex.split(value)]
    settings.append("METRICS_PORT=0")  # 9090 may be another's on this machine
    listen = ["systemd-socket-activate", f"--listen={path}"]
    listen += [f"--setenv={setting}" for setting in settings]
    command = [*PRIVATE_RUN, *listen, *RESTARTED, *shlex.split(installed_here(project, start))]
    with launch(project, command, directory / "gunicorn.log", 0) as gunicorn:
        gunicorn.wait_for_log(f"Listening on {path}")
        socket = f"/proc/{gunicorn.process.pid}/root{path}"
        shutil.chown(socket, group=unit["SocketGroup"][0])
        os.chmod(socket, int(unit["SocketMode"][0], 8))
        with nginx(project, site_file(project).read_text(), directory, gunicorn) as server:
            yield Host(gunicorn, server)
