"""deploy/vm/deploy on a booted Debian: first deploy, new versions, and failures."""

import re
from collections.abc import Iterator

import pytest

from ..harness import machine
from ..harness.machine import Machine
from ..harness.project import Project
from ..harness.service import DEPLOY_RATE, Service, check_out

NEVER_READY = """
from starlette.responses import PlainTextResponse  # noqa: E402


class NeverReady:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        app = self.app if scope.get("path") != "/health/ready" else PlainTextResponse("no", 503)
        await app(scope, receive, send)


app.add_middleware(NeverReady)
"""

OPT_MIB = 1024
"""The size of the file system of the releases."""


@pytest.fixture(scope="module")
def bare(checkout: Service) -> Service:
    """The checkout on a machine with a small /opt."""
    checkout.machine.run("mount", "-t", "tmpfs", "-o", f"size={OPT_MIB}m", "tmpfs", "/opt")
    return checkout


@pytest.fixture
def other(watched: Project) -> Iterator[Service]:
    """A checkout on a separate machine, which tests may break."""
    with machine.boot() as booted:
        yield check_out(watched, booted)


def files(machine: Machine) -> str:
    """Return the files that a deploy may change, with their modification times."""
    places = ("/etc", "/opt", "/usr", "/home", "/root", "/run/systemd/system")
    return machine.run("find", *places, "-printf", "%p %l %m %T@\\n").stdout


def master(service: Service) -> str:
    return service.machine.show(service.unit, "MainPID")


def assert_still_serves(service: Service, version: str, process: str) -> None:
    assert service.version == version
    assert master(service) == process, "it was not even restarted"
    assert service.status("/health/ready") == 200
    assert service.machine.show(f"{service.slug}-next.service", "ActiveState") == "inactive"


# ── Bad input, before there is anything ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--nonsense"],
            "deploy: unknown option --nonsense: the options are --host, --rollback and --dry-run",
        ),
        (["--host"], "deploy: --host takes the name of a host"),
        (["--rollback"], "deploy: there is no previous release"),
    ],
)
def test_invalid_arguments_print_one_line(bare: Service, options: list[str], line: str) -> None:
    before = files(bare.machine)

    status, lines = bare.deploy(*options, check=False)

    assert (status, lines) == (1, [line])
    assert files(bare.machine) == before


def test_missing_lock_file_or_root_prints_one_line(bare: Service) -> None:
    script = f"{bare.path}/deploy/vm/deploy"
    copy = "cp -r /root/checkout /srv/checkout && cd /srv/checkout && "
    unprivileged = bare.machine.run(
        "sh", "-c", f"{copy} setpriv --reuid=nobody --clear-groups deploy/vm/deploy", check=False
    )
    bare.machine.run("mv", f"{bare.path}/uv.lock", "/root/uv.lock")
    unlocked = bare.machine.run(script, check=False)
    bare.machine.run("mv", "/root/uv.lock", f"{bare.path}/uv.lock")

    assert unprivileged.returncode == unlocked.returncode == 1
    assert unprivileged.stdout == "deploy: it installs packages, a user and units: run it as root\n"
    assert unlocked.stdout == (
        f"deploy: {bare.path} has no uv.lock: uv sync writes it, commit it\n"
    )


def test_port_80_in_use_prints_one_line(other: Service) -> None:
    other.machine.run("systemctl", "stop", "nginx")
    other.machine.run("systemd-run", "--unit=squatter", "python3", "-m", "http.server", "80")
    other.machine.wait_until(lambda: other.status("/") == 200, "taken")

    status, lines = other.deploy(check=False)

    assert status == 1
    taken = r"deploy: port 80 is taken by a process other than nginx: .*python3.*"
    assert re.fullmatch(taken, lines[-1])


def test_missing_tools_are_installed_first(other: Service) -> None:
    other.machine.run("systemctl", "stop", "nginx")  # a new host has no nginx yet
    other.machine.run("dpkg", "--remove", "--force-depends", "iproute2")

    status, lines = other.deploy(check=False)

    assert status != 0, "there is no mirror in here"
    assert lines[0] == "packages   installing iproute2"
    assert any("iproute2" in line and line.startswith("E: ") for line in lines), lines


# ── From nothing to serving, and again ────────────────────────────────────────────────────────


def test_dry_run_on_a_new_host_changes_nothing(bare: Service) -> None:
    before = files(bare.machine)

    status, lines = bare.deploy("--dry-run")

    assert status == 0
    assert any(line.startswith("user ") for line in lines), lines
    assert "python     3.13; tested on 3.13 3.11" in lines, lines
    assert any(line.startswith("release ") for line in lines), lines
    assert files(bare.machine) == before


def test_nginx_without_sites_enabled_prints_one_line(bare: Service) -> None:
    """The package of nginx.org has only conf.d."""
    machine, file = bare.machine, "/etc/nginx/nginx.conf"
    machine.run("cp", "--archive", file, "/root/nginx.conf")
    machine.run("sed", "--in-place", "/sites-enabled/d", file)

    status, lines = bare.deploy(check=False)
    machine.run("mv", "/root/nginx.conf", file)

    assert status == 1
    assert lines[-1].startswith("deploy: /etc/nginx/nginx.conf includes no sites-enabled/*: ")


def test_rejected_first_deploy_leaves_the_other_sites_of_the_host(bare: Service) -> None:
    machine, site = bare.machine, f"deploy/vm/nginx/{bare.slug}.conf"
    places = ("/etc/nginx", "/etc/systemd/system")
    named = ("(", "-name", f"*{bare.slug}*", "-o", "-path", "*/sites-enabled/*", ")")
    find = ("find", *places, *named, "!", "-type", "d")
    before = machine.run(*find).stdout
    bare.edit(site, "^server {$", "broken;\nserver {")

    status, lines = bare.deploy(check=False)
    bare.edit(site, "^broken;\n", "")

    assert status == 1
    assert lines[-1] == "deploy: nginx rejects the site"
    assert machine.run(*find).stdout == before
    machine.run("nginx", "-t")


def test_first_deploy_installs_everything(bare: Service) -> None:
    bare.install()

    machine, slug = bare.machine, bare.slug
    assert bare.version == "1"
    assert machine.run("passwd", "--status", slug).stdout.split()[1] == "L"
    assert machine.run("getent", "passwd", slug).stdout.endswith(":/usr/sbin/nologin\n")
    assert machine.run("stat", "--format=%a %U", f"/etc/{slug}/env").stdout == "600 root\n"
    for unit in (bare.unit, f"{slug}.socket", "nginx"):
        assert machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    for process in [master(bare), *map(str, bare.workers)]:
        assert machine.run("ps", "-o", "user:32=", process).stdout.strip() == slug
    assert "Welcome to nginx" not in bare.request("/")


def test_second_deploy_changes_nothing(bare: Service) -> None:
    before, process = files(bare.machine), master(bare)

    status, lines = bare.deploy()

    assert status == 0
    assert len(lines) == 1
    assert lines[0].endswith("serves already")
    assert files(bare.machine) == before
    assert_still_serves(bare, "1", process)


def test_dry_run_of_a_new_version_changes_nothing(bare: Service) -> None:
    bare.release("2")
    before, process = files(bare.machine), master(bare)

    status, lines = bare.deploy("--dry-run")

    assert status == 0
    assert any("restart" in line for line in lines), lines
    assert not any("write" in line for line in lines), "units and site are the same"
    assert files(bare.machine) == before
    assert_still_serves(bare, "1", process)


def test_deploy_over_ssh_gives_the_same_result(bare: Service) -> None:
    """From an unprivileged account with an SSH key for root."""
    bare.machine.run(
        "sh",
        "-ec",
        f"""
        useradd --create-home dev
        cp -r {bare.path} /home/dev/checkout
        chown -R dev: /home/dev
        runuser -u dev -- ssh-keygen -q -N '' -t ed25519 -f /home/dev/.ssh/id_ed25519
        ssh-keyscan localhost 2>/dev/null >/home/dev/.ssh/known_hosts
        install -D -m600 /home/dev/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
        mount -t tmpfs -o noexec tmpfs /tmp # as on a hardened host
        """,
    )

    script = "/home/dev/checkout/deploy/vm/deploy"
    result = bare.machine.run("runuser", "-u", "dev", "--", script, "--host", "root@localhost")

    assert result.stdout.splitlines()[-1].endswith(" serves")
    assert bare.version == "2"
    assert not bare.machine.run("find", "/tmp", "-name", "tmp.*").stdout, "it has cleaned up"
    bare.machine.run("umount", "--lazy", "/tmp")


# ── Failed deploys leave the running version unchanged ────────────────────────────────────────


@pytest.fixture
def serving(bare: Service) -> Iterator[tuple[Service, str, str]]:
    """The service, with the version and the process that serve; the checkout and the settings are
    mended again."""
    settings = f"/etc/{bare.slug}/env"
    bare.machine.run("cp", "-a", bare.path, "/root/whole")
    bare.machine.run("cp", "-a", settings, "/root/settings")
    yield bare, bare.version, master(bare)
    bare.machine.run("sh", "-c", f"rm -r {bare.path} && mv /root/whole {bare.path}")
    bare.machine.run("mv", "/root/settings", settings)


Serving = tuple[Service, str, str]


def test_version_that_does_not_start_receives_no_request(serving: Serving) -> None:
    service, *before = serving
    service.edit(f"src/{service.package}/app.py", "^VERSION = .*$", 'raise RuntimeError("broken")')

    status, lines = service.deploy(check=False)

    assert status == 1
    assert any(line.endswith("Error: broken") for line in lines), lines
    assert re.fullmatch(r"deploy: \S+ does not become ready; \S+ keeps serving", lines[-1])
    assert_still_serves(service, *before)


def test_version_that_is_never_ready_receives_no_request(serving: Serving) -> None:
    service, *before = serving
    app = service.machine.root / service.path.lstrip("/") / f"src/{service.package}/app.py"
    app.write_text(app.read_text() + NEVER_READY)
    unit = f"deploy/vm/systemd/{service.slug}.service"
    service.edit(unit, r"seq \d+", "seq 3")

    status, lines = service.deploy(check=False)

    assert status == 1
    assert "not ready after 40 s" in lines, "\n".join(lines)
    assert re.fullmatch(r"deploy: \S+ does not become ready; \S+ keeps serving", lines[-1])
    assert_still_serves(service, *before)


def test_version_that_starts_only_in_the_rehearsal_is_rolled_back(serving: Serving) -> None:
    service, version, _ = serving
    service.release("for the rehearsal alone")
    unit = f"deploy/vm/systemd/{service.slug}.service"
    check = f"ExecStartPre=/bin/sh -c 'test %N = {service.slug}-next'"
    service.edit(unit, "^ExecStart=", f"{check}\nExecStart=")
    previous = ("readlink", f"/opt/{service.slug}/previous")
    release = service.machine.run(*previous, check=False).stdout
    output: list[str] = []

    tally = service.under_load(
        lambda: output.extend(service.deploy(check=False)[1]), rate=DEPLOY_RATE
    )

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert any(line.startswith("rollback ") for line in output), output
    assert re.fullmatch(r"deploy: \S+ does not start on \S+; \S+ keeps serving", output[-1])
    assert_still_serves(service, version, master(service))
    assert service.machine.run(*previous, check=False).stdout == release, "--rollback's release"


@pytest.mark.parametrize("setting", ["ENVIRONMENT=prod", "WEB_CONCURRENCY=many"])
def test_wrong_setting_prints_one_line_with_its_name(serving: Serving, setting: str) -> None:
    service, *before = serving
    service.settings(setting + "\n")

    status, lines = service.deploy(check=False)

    assert status == 1
    name = setting.partition("=")[0]
    assert sum(line.startswith(f"{name}: ") for line in lines) == 1, lines
    assert not any("Traceback" in line for line in lines)
    assert_still_serves(service, *before)


def test_untested_python_prints_one_line(serving: Serving) -> None:
    service, *before = serving
    service.edit("deploy/vm/deploy", r"^readonly pythons=\(.*?\)", "readonly pythons=(3.12)")

    for options in ([], ["--dry-run"]):
        status, lines = service.deploy(*options, check=False)
        assert status == 1
        assert lines == [
            "deploy: the Python of this host is 3.13, the service is tested on 3.12:"
            " use Debian 13 or 12, or add 3.13 to pythons in deploy/vm/deploy and test on it"
        ]
    assert_still_serves(service, *before)


def test_unusable_key_prints_one_line(serving: Serving) -> None:
    service, *before = serving
    tls = f"/etc/{service.slug}/tls"
    certificate(service)
    service.machine.run("sh", "-c", f"echo garbage >{tls}/privkey.pem")

    status, lines = service.deploy(check=False)

    assert status == 1
    assert any("privkey.pem" in line for line in lines), lines
    assert re.fullmatch(r"deploy: nginx rejects the site; \S+ keeps serving", lines[-1])
    assert_still_serves(service, *before)
    service.machine.run("nginx", "-t")  # otherwise nginx would not start after a reboot
    service.machine.run("rm", "-r", tls)


def certificate(service: Service) -> None:
    """A self-signed certificate at the path that the site uses."""
    tls = f"/etc/{service.slug}/tls"
    service.machine.run("mkdir", tls)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    out = ("-keyout", f"{tls}/privkey.pem", "-out", f"{tls}/fullchain.pem")
    service.machine.run("openssl", "req", "-x509", *key, *out, "-subj", "/CN=localhost")


NEEDS_RIGHTS = """
import mmap  # noqa: E402

mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # as numba does
VERSION = f"{os.environ['FROM_REPOSITORY']} and {os.environ['FROM_HOST']}"
"""


def test_temporary_instance_has_the_rights_of_repository_and_host(serving: Serving) -> None:
    """A version that needs more rights is refused without them, and serves with them."""
    service, *before = serving
    app = service.machine.root / service.path.lstrip("/") / f"src/{service.package}/app.py"
    app.write_text(app.read_text() + NEEDS_RIGHTS)
    status, lines = service.deploy(check=False)
    assert status == 1
    assert re.fullmatch(r"deploy: \S+ does not become ready; \S+ keeps serving", lines[-1])
    assert_still_serves(service, *before)

    override = f"/etc/systemd/system/{service.unit}.d/override.conf"  # of `systemctl edit`
    service.machine.run(
        *("install", "-D", "/dev/stdin", override),
        stdin="[Service]\nEnvironment=FROM_HOST=host\n",
    )
    service.rights(
        "[Service]\nMemoryDenyWriteExecute=false\nEnvironment=FROM_REPOSITORY=repository\n"
    )
    tally = service.under_load(service.deploy, requests=2_000, rate=DEPLOY_RATE)

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert service.version == "repository and host"
    assert not service.machine.run("find", "/run/systemd/system", "-name", "*-next*").stdout
    assert service.deploy()[1][-1].endswith("serves already")
    service.deploy("--rollback")
    assert_still_serves(service, before[0], master(service))
    service.machine.run("rm", override)


def test_egress_to_other_addresses_is_refused(serving: Serving) -> None:
    """The kernel drops packets if rights.conf has both lines; metrics are still scraped."""
    service, *before = serving
    service.machine.run("systemd-run", "--unit=backend", "python3", "-m", "http.server", "8123")
    reached = "/reach?port=8123&address="
    service.machine.wait_until(lambda: service.request(reached + "127.0.0.2") == "true", "reached")
    service.rights("[Service]\nIPAddressAllow=127.0.0.1\n")
    status, lines = service.deploy(check=False)
    assert (status, lines) == (
        1,
        [
            "deploy: deploy/vm/systemd/rights.conf: IPAddressAllow= has no effect without"
            " IPAddressDeny=any"
        ],
    )

    service.rights("[Service]\nIPAddressDeny=any\nIPAddressAllow=127.0.0.1\n")
    service.deploy()

    assert service.request(reached + "127.0.0.1") == "true"
    assert service.request(reached + "127.0.0.2") == "false"
    assert "process_" in service.machine.run("curl", "--silent", "127.0.0.1:9090/metrics").stdout
    service.deploy("--rollback")
    assert service.request(reached + "127.0.0.2") == "true"
    assert_still_serves(service, before[0], master(service))
    service.machine.run("systemctl", "stop", "backend")


def test_full_disk_prints_one_line(serving: Serving) -> None:
    service, *before = serving
    used = service.machine.run("df", "--output=used", "--block-size=1M", "/opt").stdout.split()[1]
    resize(service, int(used) + 5)
    service.release("too big")

    status, lines = service.deploy(check=False)
    resize(service, OPT_MIB)

    assert status != 0
    assert any("No space left on device" in line for line in lines), lines
    assert_still_serves(service, *before)


def resize(service: Service, mebibytes: int) -> None:
    service.machine.run("mount", "-o", f"remount,size={mebibytes}m", "/opt")


def test_socket_directory_closed_to_nginx_is_repaired(serving: Serving) -> None:
    service, *before = serving
    service.machine.run("chmod", "700", f"/run/{service.slug}")
    service.machine.run("systemctl", "restart", "nginx")  # it may still hold connections
    assert service.status("/version") == 502

    status, lines = service.deploy()

    assert status == 0
    assert lines[0] == (
        f"socket     /run/{service.slug}: mode 700 denied access to nginx, now it is 755"
    )
    assert_still_serves(service, *before)


def test_interrupted_deploy_is_completed_by_the_next(serving: Serving) -> None:
    service, version, _ = serving
    service.release("cut off")
    service.machine.run(
        "bash",
        "-c",
        f"""
        setsid {service.path}/deploy/vm/deploy & deploy=$!
        until systemctl --quiet is-active {service.slug}-next.service; do sleep 0.1; done
        kill -9 -- -$deploy
        until flock --nonblock /run/lock/{service.slug}-deploy true; do sleep 0.1; done
        """,
    )
    assert service.version in (version, "cut off")

    status, lines = service.deploy()

    assert status == 0
    assert any(line.endswith(("serves", "serves already")) for line in lines), lines
    assert_still_serves(service, "cut off", master(service))


def test_new_settings_are_checked_and_applied(bare: Service) -> None:
    bare.deploy()
    process = master(bare)
    bare.settings("WEB_CONCURRENCY=1\n")

    _, lines = bare.deploy()

    assert any(line.startswith("rehearsal ") for line in lines), lines
    assert master(bare) != process
    assert len(bare.workers) == 1
    assert bare.deploy()[1][-1].endswith("serves already")


def test_old_releases_are_deleted(bare: Service) -> None:
    releases = bare.machine.run("ls", f"/opt/{bare.slug}/releases").stdout.split()

    assert len(releases) <= 3, releases


def test_plain_example_is_deployed(plain_watched: Project) -> None:
    with machine.boot() as booted:
        service = check_out(plain_watched, booted)
        service.install()
        service.release("2")
        service.deploy()

        assert service.version == "2"
        assert service.status("/large-response?size_kb=4") == 200
