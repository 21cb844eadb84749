"""Check that the pods of an overlay stay within the database connections of the service.

    kubectl kustomize deploy/kubernetes/overlays/production | scripts/connections.py

Each pod opens up to DATABASE_POOL_SIZE connections. The number of pods is the autoscaler's maximum,
plus the surge of a rollout, plus pods that still drain, which do not count as surge. Exits with
status 1 and a line if the sum exceeds DATABASE_CONNECTIONS, or can't be computed.
"""

import math
import sys
from typing import Any

import yaml

# Connections for a migration, its lock, and psql: RESERVED in serving/database/settings.py.
RESERVED = 4
# Seconds from the start of a pod until it is ready; minReadySeconds is added.
START_SECONDS = 2
# The field with the maximum in each kind of autoscaler, and KEDA's default.
MAX_PODS_FIELD = {"HorizontalPodAutoscaler": "maxReplicas", "ScaledObject": "maxReplicaCount"}
KEDA_MAX_PODS = 100


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a kind."""
    return [manifest for manifest in manifests if manifest and manifest.get("kind") == kind]


def surge(replicas: int, value: int | str) -> int:
    """Return maxSurge in pods: a number or a percentage, rounded up as Kubernetes does."""
    text = str(value)
    return -(-replicas * int(text[:-1]) // 100) if text.endswith("%") else int(text)


def pods_at_once(deployment: dict[str, Any], autoscalers: list[dict[str, Any]]) -> int:
    """Return the maximum number of pods of a Deployment, including those that still drain."""
    name, spec = deployment["metadata"]["name"], deployment["spec"]
    maxima = [
        autoscaler["spec"].get(MAX_PODS_FIELD[autoscaler["kind"]], KEDA_MAX_PODS)
        for autoscaler in autoscalers
        if autoscaler["spec"]["scaleTargetRef"]["name"] == name
    ]
    replicas = int(max(maxima, default=spec.get("replicas", 1)))
    strategy = spec.get("strategy", {})
    if strategy.get("type") == "Recreate":
        return replicas
    extra = surge(replicas, (strategy.get("rollingUpdate") or {}).get("maxSurge", "25%"))
    grace = int(spec["template"]["spec"].get("terminationGracePeriodSeconds", 30))
    steps = math.ceil(grace / (int(spec.get("minReadySeconds", 0)) + START_SECONDS))
    return replicas + extra + min(replicas, max(extra, 1) * steps)


def faults(manifests: list[dict[str, Any]]) -> list[str]:
    """Return a line for each Deployment that may open too many connections."""
    config_maps = {
        config_map["metadata"]["name"]: config_map.get("data", {})
        for config_map in of_kind(manifests, "ConfigMap")
    }
    messages = []
    for deployment in of_kind(manifests, "Deployment"):
        containers = deployment["spec"]["template"]["spec"]["containers"]
        # An overlay may add sidecars, before or after the container of the service.
        container = next((each for each in containers if each["name"] == "app"), containers[0])
        settings: dict[str, str] = {}
        for source in container.get("envFrom", []):
            settings |= config_maps.get(source.get("configMapRef", {}).get("name"), {})
        settings |= {env["name"]: env.get("value", "") for env in container.get("env", [])}
        name = deployment["metadata"]["name"]
        try:
            pool = int(settings["DATABASE_POOL_SIZE"])
            available = int(settings["DATABASE_CONNECTIONS"])
        except (KeyError, ValueError) as error:
            messages.append(
                f"Deployment {name}: DATABASE_POOL_SIZE and DATABASE_CONNECTIONS: {error}"
            )
            continue
        autoscalers = [scaler for kind in MAX_PODS_FIELD for scaler in of_kind(manifests, kind)]
        pods = pods_at_once(deployment, autoscalers)
        total = pool * pods + RESERVED
        formula = f"{pool} connections x {pods} pods + {RESERVED} in reserve = {total}"
        if total > available:
            messages.append(
                f"Deployment {name}: {formula}, above DATABASE_CONNECTIONS={available}: "
                "fewer pods, a smaller DATABASE_POOL_SIZE, or more connections"
            )
        else:
            print(f"{formula} of {available}")
    return messages


if __name__ == "__main__":
    load: Any = yaml.safe_load_all  # untyped
    messages = faults(list(load(sys.stdin)))
    print("".join(f"{message}\n" for message in messages), end="", file=sys.stderr)
    sys.exit(1 if messages else 0)
