"""The units and the nginx site of a rendered project, parsed and run.

Requires Linux and the tools in `missing_tools`.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .project import Project
from .server import Server, free_port, launch

# Global settings of a host, which must not affect the site.
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
    """Return what is missing to act as a host: programs, or `root`."""
    tools = ("nginx", "systemd-analyze")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


def unit_file(project: Project, kind: str) -> Path:
    """Return the rendered systemd unit of that kind: service or socket."""
    return project.path / f"deploy/vm/systemd/{project.answers['project_slug']}.{kind}"


def site_file(project: Project) -> Path:
    """Return the rendered nginx site."""
    return project.path / f"deploy/vm/nginx/{project.answers['project_slug']}.conf"


def read_unit(file: Path) -> dict[str, list[str]]:
    """Return the values of each key of a systemd unit, in any section."""
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE):
        values.setdefault(key, []).append(value)
    return values


def installed_here(project: Project, text: str) -> str:
    """Return a unit's text, with the project's own directory as the one where it is installed."""
    return text.replace(f"/opt/{project.answers['project_slug']}/current", str(project.path))


def nginx_command(site: str, directory: Path) -> list[str]:
    """nginx in the foreground, with that site and no other."""
    (directory / "site.conf").write_text(site)
    (directory / "nginx.conf").write_text(NGINX_CONF.format(directory=directory))
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


@contextmanager
def nginx(project: Project, site: str, directory: Path) -> Iterator[Server]:
    """Run nginx with a site on a free port instead of port 80, and wait until it is ready."""
    port = free_port()
    site, replaced = re.subn(r"listen 80;", f"listen 127.0.0.1:{port};", site)
    assert replaced == 1
    command = nginx_command(site.replace("listen [::]:80;", ""), directory)
    with launch(project, command, directory / "nginx.log", port) as server:
        server.wait_until_ready()
        yield server
