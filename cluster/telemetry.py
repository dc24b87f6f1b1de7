"""OpenTelemetry for every process: spans always have real ids.

They are exported to the endpoint that the standard variables name; a worker without one exports to the cluster's API.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_PATH = "v1/traces"
WORKER_HOOK = "enchanted.cluster.telemetry.configure_worker"
FLUSH_MILLISECONDS = 3_000


def configure(service_name: str, endpoint: str | None = None, *, embedded: bool = False) -> TracerProvider:
    """Install this process's tracer provider; the second call returns the first one's.

    ``endpoint`` is an OTLP/HTTP base URL and wins over the standard variables; ``embedded`` exports to the API of the
    connected cluster where neither names one. What is not exported yet when the process ends is flushed, for at most
    three seconds.
    """
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current
    # Resource.create adds OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME, which win over ours.
    attributes = {"service.namespace": "enchanted", "service.version": version("enchanted-swarm")}
    if "OTEL_SERVICE_NAME" not in os.environ:
        attributes["service.name"] = service_name
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    if exports(os.environ, endpoint):
        _export(provider, endpoint)
    elif embedded and allows_export(os.environ):
        _export_embedded(provider)
    trace.set_tracer_provider(provider)
    atexit.register(shutdown)
    return provider


def exports(environment: Mapping[str, str], endpoint: str | None = None) -> bool:
    """Whether spans go to an endpoint that somebody named."""
    named = endpoint or any(environment.get(name) for name in ENDPOINT_VARIABLES)
    return bool(named) and allows_export(environment)


def allows_export(environment: Mapping[str, str]) -> bool:
    """Whether no variable of the standard switches OTLP off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in [name.strip() for name in exporters.split(",")]


def _export(provider: TracerProvider, endpoint: str | None) -> None:
    # 0.1 s of imports that a process without an endpoint need not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = f"{endpoint.rstrip('/')}/{TRACES_PATH}" if endpoint else None
    provider.add_span_processor(_batched(OTLPSpanExporter(endpoint=url)))


def _export_embedded(provider: TracerProvider) -> None:
    from enchanted.cluster.embedded_exporter import EmbeddedExporter

    provider.add_span_processor(_batched(EmbeddedExporter()))


def _batched(exporter: SpanExporter) -> BatchSpanProcessor:
    delay = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else 1_000
    return BatchSpanProcessor(exporter, schedule_delay_millis=delay)


def shutdown() -> None:
    """Export what is waiting; later spans still have ids and go nowhere."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(FLUSH_MILLISECONDS)
        provider.shutdown()


def configure_worker() -> None:
    """Ray's ``worker_process_setup_hook``: runs in each worker before the first task or actor."""
    configure("enchanted-worker", embedded=True)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The standard variables that a Ray worker must have to export where its driver does."""
    return {name: value for name, value in environment.items() if name.startswith("OTEL_")}
