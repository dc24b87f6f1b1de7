"""OpenTelemetry for every process: spans always have real ids; they are exported when an endpoint is set."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_PATH = "v1/traces"
WORKER_HOOK = "enchanted.cluster.telemetry.configure_worker"
FLUSH_MILLISECONDS = 3_000


def configure(service_name: str, endpoint: str | None = None) -> TracerProvider:
    """Install this process's tracer provider; the second call returns the first one's.

    ``endpoint`` is an OTLP/HTTP base URL and wins over the standard variables. What is not exported yet when the
    process ends is flushed, for at most three seconds.
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
    trace.set_tracer_provider(provider)
    atexit.register(shutdown)
    return provider


def exports(environment: Mapping[str, str], endpoint: str | None = None) -> bool:
    """Whether spans leave the process: an endpoint is set, and no variable of the standard switches them off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return bool(endpoint or any(environment.get(name) for name in ENDPOINT_VARIABLES))


def _export(provider: TracerProvider, endpoint: str | None) -> None:
    # 0.1 s of imports that a process without an endpoint need not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = f"{endpoint.rstrip('/')}/{TRACES_PATH}" if endpoint else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url), schedule_delay_millis=1_000))


def shutdown() -> None:
    """Export what is waiting; later spans still have ids and go nowhere."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(FLUSH_MILLISECONDS)
        provider.shutdown()


def configure_worker() -> None:
    """Ray's ``worker_process_setup_hook``: runs in each worker before the first task or actor."""
    configure("enchanted-worker")


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The standard variables that a Ray worker must have to export where its driver does."""
    return {name: value for name, value in environment.items() if name.startswith("OTEL_")}
