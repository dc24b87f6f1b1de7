"""Servers for tests: models behind the OpenAI protocol, and a receiver of OpenTelemetry spans."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import Message, ModelRequest

Answer = Mapping[str, Any]
Script = Callable[[str], Answer]
"""From the whole prompt to the members of the answer that matter; the rest is filled in by the schema."""
Respond = Callable[[str, bytes], tuple[int, bytes]]

MODEL = "test"


class ModelServer:
    """An OpenAI-compatible server: each role's answers follow its script, everything else the JSON schema alone."""

    def __init__(self, url: str) -> None:
        self.url = f"openai:{url}/v1#{MODEL}"
        self.scripts: dict[str, Script] = {}
        """"architect", "coder" or "reviewer" to what it says."""

    def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer one request."""
        asked = json.loads(body)
        if path != "/v1/chat/completions" or asked["model"] != MODEL:
            return 404, json.dumps({"error": {"message": f"The model `{asked['model']}` does not exist."}}).encode()
        schema = asked["response_format"]["json_schema"]["schema"]
        messages = tuple(Message(**message) for message in asked["messages"])
        request = ModelRequest(messages=messages, schema=schema, seed=asked["seed"])
        answer = json.loads(asyncio.run(MinimalModel(("approve",)).complete(request)).text)
        if script := self.scripts.get(_role_asking_for(schema)):
            answer |= script("\n".join(message.content for message in messages))
        choice = {"message": {"role": "assistant", "content": json.dumps(answer)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return 200, json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode()


def _role_asking_for(schema: Mapping[str, Any]) -> str:
    members = schema["properties"]
    return "architect" if "tasks" in members else "coder" if "search" in members else "reviewer"


@dataclass(frozen=True)
class Span:
    """An exported span, ids in hexadecimal."""

    trace_id: str
    span_id: str
    name: str
    attributes: Mapping[str, str]


class SpanReceiver:
    """An OTLP/HTTP endpoint that keeps what it is sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Take one export."""
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {one.key: one.value.string_value for one in span.attributes}
                    self.spans.append(Span(span.trace_id.hex(), span.span_id.hex(), span.name, attributes))
        return 200, b""


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """A `ModelServer` on a free port."""
    with _serving() as (http, responders):
        server = ModelServer(f"http://127.0.0.1:{http.server_port}")
        responders.append(server.respond)
        yield server


@contextmanager
def span_receiver() -> Iterator[SpanReceiver]:
    """A `SpanReceiver` on a free port."""
    with _serving() as (http, responders):
        receiver = SpanReceiver(f"http://127.0.0.1:{http.server_port}")
        responders.append(receiver.respond)
        yield receiver


@contextmanager
def _serving() -> Iterator[tuple[ThreadingHTTPServer, list[Respond]]]:
    responders: list[Respond] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, answer = responders[0](self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield http, responders
        finally:
            http.shutdown()
            thread.join(5)
