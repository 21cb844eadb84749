"""Check that the pods of an overlay stay within the database connections of the service.

    kubectl kustomize deploy/kubernetes/overlays/production | scripts/connections.py

Each pod opens up to DATABASE_POOL_SIZE connections. There may be maxReplicas pods, the surge of a
rollout, and pods that still drain, which do not count as surge. Exits with status 1 and a line if
the sum is above DATABASE_CONNECTIONS, or can't be computed.
"""

import math
import sys
from typing import Any

import yaml

# For a migration, its lock, and psql: RESERVED of serving/database/settings.py.
RESERVED = 4
# From the start of a pod until it is ready; minReadySeconds comes on top.
START_SECONDS = 2


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a kind."""
    return [each for each in manifests if each and each.get("kind") == kind]


def surge(replicas: int, value: int | str) -> int:
    """Return maxSurge in pods: a number or a percentage, rounded up as Kubernetes does."""
    text = str(value)
    return -(-replicas * int(text[:-1]) // 100) if text.endswith("%") else int(text)


def pods_at_once(deployment: dict[str, Any], autoscalers: list[dict[str, Any]]) -> int:
    """Return how many pods of a Deployment may exist, including those that still drain."""
    name, spec = deployment["metadata"]["name"], deployment["spec"]
    counted = [
        each["spec"]["maxReplicas"]
        for each in autoscalers
        if each["spec"]["scaleTargetRef"]["name"] == name
    ]
    replicas = int(max(counted, default=spec.get("replicas", 1)))
    strategy = spec.get("strategy", {})
    if strategy.get("type") == "Recreate":
        return replicas
    extra = surge(replicas, (strategy.get("rollingUpdate") or {}).get("maxSurge", "25%"))
    grace = int(spec["template"]["spec"].get("terminationGracePeriodSeconds", 30))
    steps = math.ceil(grace / (int(spec.get("minReadySeconds", 0)) + START_SECONDS))
    return replicas + extra + min(replicas, max(extra, 1) * steps)


def faults(manifests: list[dict[str, Any]]) -> list[str]:
    """Return a line for each Deployment that may open too many connections."""
    configured = {
        each["metadata"]["name"]: each.get("data", {}) for each in of_kind(manifests, "ConfigMap")
    }
    found = []
    for deployment in of_kind(manifests, "Deployment"):
        [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
        settings: dict[str, str] = {}
        for source in container.get("envFrom", []):
            settings |= configured.get(source.get("configMapRef", {}).get("name"), {})
        settings |= {each["name"]: each.get("value", "") for each in container.get("env", [])}
        name = deployment["metadata"]["name"]
        try:
            pool = int(settings["DATABASE_POOL_SIZE"])
            available = int(settings["DATABASE_CONNECTIONS"])
        except (KeyError, ValueError) as error:
            found.append(f"Deployment {name}: DATABASE_POOL_SIZE and DATABASE_CONNECTIONS: {error}")
            continue
        pods = pods_at_once(deployment, of_kind(manifests, "HorizontalPodAutoscaler"))
        total = pool * pods + RESERVED
        said = f"{pool} connections x {pods} pods + {RESERVED} in reserve = {total}"
        if total > available:
            found.append(
                f"Deployment {name}: {said}, above DATABASE_CONNECTIONS={available}: "
                "fewer pods, a smaller DATABASE_POOL_SIZE, or more connections"
            )
        else:
            print(f"{said} of {available}")
    return found


if __name__ == "__main__":
    load: Any = yaml.safe_load_all  # untyped
    found = faults(list(load(sys.stdin)))
    print("".join(f"{fault}\n" for fault in found), end="", file=sys.stderr)
    sys.exit(1 if found else 0)
