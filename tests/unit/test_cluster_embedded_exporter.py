"""Spans to the cluster's own API: never before it is there, never at a run's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from enchanted.cluster import embedded_exporter
from enchanted.cluster.embedded_exporter import PAUSE_SECONDS, EmbeddedExporter, Receiver


class Api(ThreadingHTTPServer):
    """Takes exports, or answers what it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        self.tokens: list[str] = []
        self.status = 200
        self.hangs = threading.Event()
        self.hangs.set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        api = self.server
        assert isinstance(api, Api)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        api.hangs.wait()
        if api.status == 200:
            spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
            api.names.append([span.name for span in spans])
            api.tokens.append(self.headers["Authorization"])
        self.send_response(api.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.hangs.set()
        server.shutdown()
        thread.join()


class Cluster:
    """Where the API is, and what time it is."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text("secret\n")
        self.receiver: Receiver | None = (api.url, self.token_file)
        self.time = 100.0
        self.asked = 0
        self.exporter = EmbeddedExporter(self.find, now=lambda: self.time)

    def find(self) -> Receiver | None:
        self.asked += 1
        return self.receiver


@pytest.fixture
def cluster(api: Api, tmp_path: Path) -> Cluster:
    return Cluster(api, tmp_path)


def spans(*names: str) -> list[ReadableSpan]:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    made: list[ReadableSpan] = []
    for name in names:
        span = tracer.start_span(name)
        span.end()
        assert isinstance(span, ReadableSpan)
        made.append(span)
    return made


def test_spans_arrive_with_the_token(cluster: Cluster, api: Api) -> None:
    assert cluster.exporter.export(spans("a", "b")) is SpanExportResult.SUCCESS
    assert cluster.exporter.export(spans("c")) is SpanExportResult.SUCCESS
    assert (api.names, api.tokens) == ([["a", "b"], ["c"]], ["Bearer secret"] * 2)
    assert cluster.asked == 1


def test_nothing_leaves_before_the_api_is_registered_and_nothing_is_lost(cluster: Cluster, api: Api) -> None:
    there, cluster.receiver = cluster.receiver, None
    cluster.exporter.export(spans("a"))
    cluster.exporter.export(spans("b"))
    assert cluster.asked == 1, "it is not looked up for every batch"
    cluster.receiver, cluster.time = there, cluster.time + PAUSE_SECONDS
    cluster.exporter.export(spans("c"))
    assert api.names == [["a", "b", "c"]]


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_spans_wait_while_the_api_refuses_for_now(cluster: Cluster, api: Api, status: int) -> None:
    api.status = status
    assert cluster.exporter.export(spans("a")) is SpanExportResult.SUCCESS
    api.status = 200
    cluster.exporter.export(spans("b"))
    assert api.names == []
    cluster.time += PAUSE_SECONDS
    cluster.token_file.write_text("another")
    cluster.exporter.export(spans("c"))
    assert (api.names, api.tokens) == ([["a", "b", "c"]], ["Bearer another"])


def test_what_the_api_never_takes_is_dropped(cluster: Cluster, api: Api) -> None:
    api.status = 400
    cluster.exporter.export(spans("a"))
    api.status = 200
    cluster.exporter.export(spans("b"))
    assert api.names == [["b"]]


def test_an_api_that_hangs_or_has_gone_costs_one_short_try(
    cluster: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_exporter, "SEND_SECONDS", 1.0)
    api.hangs.clear()
    begun = time.monotonic()
    for name in "abcdef":
        cluster.exporter.export(spans(name))
    assert time.monotonic() - begun < 5, "six tries would take six seconds"
    cluster.receiver, cluster.time = ("http://127.0.0.1:1", cluster.token_file), cluster.time + PAUSE_SECONDS
    cluster.exporter.export(spans("g"))
    cluster.token_file.unlink()
    cluster.exporter.shutdown()


def test_a_cluster_that_cannot_be_asked_harms_nobody(tmp_path: Path) -> None:
    def broken() -> Receiver | None:
        raise RuntimeError("Ray has not been started")

    exporter = EmbeddedExporter(broken)
    assert exporter.export(spans("a")) is SpanExportResult.SUCCESS
    assert exporter.force_flush() is False
    exporter.shutdown()


def test_only_so_many_spans_wait(cluster: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_exporter, "WAITING", 10)
    monkeypatch.setattr(embedded_exporter, "AT_ONCE", 4)
    exporter = EmbeddedExporter(cluster.find, now=lambda: cluster.time)
    there, cluster.receiver = cluster.receiver, None
    exporter.export(spans(*map(str, range(25))))
    cluster.receiver = there
    assert exporter.force_flush() is True
    assert api.names == [["15", "16", "17", "18"], ["19", "20", "21", "22"], ["23", "24"]]
