"""CPU of a pod whose requests wait for other services, compared with its requests in flight.

    .venv/bin/python -m bench.waiting [CLIENTS [SECONDS]]

The reference service in production on a real Kubernetes. Each client sends requests to one pod, one
after the other, which wait for two seconds. The autoscaler of the base compares the CPU with its
request; the KEDA component compares the requests in flight with MAX_CONCURRENCY.
"""

import asyncio
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness import kubernetes, pods, reference_service, service
from tests.harness.kubernetes import Service
from tests.harness.load import Load
from tests.harness.pods import Deployment

from . import meter
from .probes import rendered
from .results import Table, arguments, markdown

PATHS = ["/hold?seconds=2"]
MAX_CONCURRENCY = 500


def main() -> None:
    clients, seconds = arguments((400, 20))
    if missing := kubernetes.missing_tools():
        raise SystemExit(f"bench.waiting: it needs {', '.join(missing)}")
    with TemporaryDirectory() as directory:
        slug = f"orders-{uuid.uuid4().hex[:8]}"
        plain = rendered(Path(directory), project_slug=slug, request_timeout_seconds=5)
        project = service.watch(reference_service.graft(plain, Path(directory, "watched")))
        deployment = Deployment.production(project)
        meter.say("  building the image")
        with pods.image(deployment), kubernetes.run() as cluster:
            running = Service(cluster, deployment)
            running.install()
            pod = running.pods()[0]
            client = cluster.client("ingress")
            meter.say(f"  {clients} clients for {seconds} s")
            used, answered = asyncio.run(
                measure(client, pod["status"]["podIP"], cluster.processes_of(pod), clients, seconds)
            )
    request = deployment.container["resources"]["requests"]["cpu"]
    share = used / seconds / (int(request.removesuffix("m")) / 1000)
    table: Table = [
        ("requests in flight", "of its limit", "CPU, of its request", "requests per second"),
        (
            f"{clients}",
            f"{clients / MAX_CONCURRENCY:.0%}",
            f"{share:.0%}",
            f"{answered / seconds:.0f}",
        ),
    ]
    print(markdown(table))


async def measure(
    client: Path, host: str, processes: list[int], clients: int, seconds: int
) -> tuple[float, int]:
    """Return the CPU seconds of the processes during a load, and the number of responses."""
    load = Load(8000, PATHS, clients, namespace=client, host=host)
    await load.answered(2 * clients)
    before, answered = cpu_seconds(processes), load.tally.answered
    await asyncio.sleep(seconds)
    used, during = cpu_seconds(processes) - before, load.tally.answered - answered
    await load.stop()
    return used, during


def cpu_seconds(processes: list[int]) -> float:
    """Return the user and system time of processes, in seconds."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / meter.TICKS


if __name__ == "__main__":
    main()
