"""Telemetry: ids without an exporter, and the standard variables honoured."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enchanted.cluster.telemetry import allows_export, exports, worker_environment

PROGRAM = """
from opentelemetry import trace
from enchanted.cluster.telemetry import configure, configure_worker
provider = configure("enchanted-test")
configure_worker()
assert trace.get_tracer_provider() is provider
with trace.get_tracer("t").start_as_current_span("one") as span:
    print(f"{span.get_span_context().trace_id:032x}")
"""


class Receiver(ThreadingHTTPServer):
    """An OTLP/HTTP endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.server.requests.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PATH": "/usr/bin", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_an_endpoint_spans_have_ids_and_nothing_is_exported() -> None:
    assert int(run(), 16) != 0


def test_with_an_endpoint_the_span_arrives_before_the_process_has_ended(receiver: Receiver) -> None:
    trace_id = run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.server_port}")
    [(path, body)] = receiver.requests
    assert path == "/v1/traces"
    assert bytes.fromhex(trace_id) in body
    assert b"enchanted-test" in body


def test_the_service_name_of_the_environment_wins(receiver: Receiver) -> None:
    run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.server_port}", OTEL_SERVICE_NAME="mine")
    [(_, body)] = receiver.requests
    assert b"mine" in body
    assert b"enchanted-test" not in body


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide_whether_spans_leave(environment: dict[str, str], expected: bool) -> None:
    assert exports(environment) is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, True),
        ({"OTEL_TRACES_EXPORTER": ""}, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_the_clusters_own_api_is_used_unless_a_variable_says_otherwise(
    environment: dict[str, str], expected: bool
) -> None:
    assert allows_export(environment) is expected


def test_a_worker_without_a_cluster_ends_as_soon_as_any_other() -> None:
    program = PROGRAM.replace(
        'provider = configure("enchanted-test")', "configure_worker()\nprovider = trace.get_tracer_provider()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "/usr/bin"}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout, 16) != 0


def test_a_worker_gets_the_standard_variables_and_no_others() -> None:
    assert worker_environment({"OTEL_A": "1", "HOME": "/h"}) == {"OTEL_A": "1"}
