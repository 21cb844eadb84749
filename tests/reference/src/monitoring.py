"""Sentry and OpenTelemetry, each off unless the settings ask for it.

Both write to the log: this service has no network.
"""

import logging
from collections.abc import Sequence

import sentry_sdk
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from .settings import Settings

logger = logging.getLogger(__name__)


class LogTransport(Transport):
    """Writes a line for each exception that Sentry would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event() or {}
        for error in event.get("exception", {}).get("values", ()):
            logger.info("Sentry event: %s: %s", error["type"], error["value"])


class LogExporter(SpanExporter):
    """Writes a line for each span."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            logger.info("Span: %s", span.name)
        return SpanExportResult.SUCCESS


def start_sentry(settings: Settings) -> None:
    """Start Sentry, which patches FastAPI: call it before the application is made."""
    if settings.sentry_dsn:
        sentry_sdk.init(dsn=settings.sentry_dsn, transport=LogTransport)


def record_spans(app: FastAPI, settings: Settings) -> None:
    """Record spans of the requests of `app`."""
    if settings.record_spans:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(LogExporter()))
        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
