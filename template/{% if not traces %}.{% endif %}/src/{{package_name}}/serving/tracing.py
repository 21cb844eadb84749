"""No traces: FastAPI looks for them in each request, so its telemetry is switched off."""

from collections.abc import Mapping

from fastapi import FastAPI

from .settings import ServingSettings

NO_IDS: Mapping[str, str] = {}


def install(app: FastAPI, _: ServingSettings) -> None:
    """Switch it off, unless `FastAPI(telemetry=…)` or the environment asks for it."""
    telemetry = app._telemetry  # FastAPI takes it on construction alone, which is the team's
    providers = (
        telemetry[name] for name in ("tracer_provider", "meter_provider", "logger_provider")
    )
    if not telemetry["auto_configure"] and not any(providers):
        telemetry.update({"tracing": False, "metrics": False, "logs": False})


def current_ids() -> Mapping[str, str]:
    """The ids of the current span, of which there is none."""
    return NO_IDS
