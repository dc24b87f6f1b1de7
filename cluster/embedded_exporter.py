"""Spans to the API of the cluster a process is in, when nobody named another receiver.

Whatever is wrong with the API costs spans at most, never a run: one short try, then a pause in which spans wait. Where
the API is, is looked up in the cluster and only there, so that nothing leaves a process before the API is up.
"""

from __future__ import annotations

import itertools
import logging
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import HTTPError

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

SEND_SECONDS = 2.0
"""Time for one try; an actor that stops waits for it."""
PAUSE_SECONDS = 5.0
"""Between tries while the API is away."""
WAITING = 4_096
"""Spans that wait at most; then the oldest go."""
AT_ONCE = 512

_HOPELESS = (400, 413, 415)
"""Answers that the same spans would get again."""

log = logging.getLogger(__name__)

Receiver = tuple[str, Path]
"""Base URL of the API, and the file of its token."""


def registered_receiver() -> Receiver | None:
    """The API of the connected Ray cluster; None while it has none."""
    from enchanted.cluster.registry import registered

    endpoints = registered()
    return None if endpoints is None else (endpoints.api_url, endpoints.token_file)


class EmbeddedExporter(SpanExporter):
    """Keeps spans until the receiver has taken them, within bounds."""

    def __init__(
        self,
        find: Callable[[], Receiver | None] = registered_receiver,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._now = now
        self._waiting: deque[ReadableSpan] = deque(maxlen=WAITING)
        self._receiver: Receiver | None = None
        self._pause_until = 0.0
        self._failing = False
        # The system's proxies are for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take spans; they are sent now, or with later ones."""
        self._waiting.extend(spans)
        if self._now() >= self._pause_until:
            self._send_waiting()
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Try once more, whatever the pause; true when nothing waits."""
        self._send_waiting()
        return not self._waiting

    def shutdown(self) -> None:
        """A last try."""
        self._send_waiting()
        self._waiting.clear()

    def _send_waiting(self) -> None:
        try:
            self._receiver = self._receiver or self._find()
            while self._receiver is not None and self._waiting:
                part = list(itertools.islice(self._waiting, AT_ONCE))
                self._send(part, *self._receiver)
                for _ in part:
                    self._waiting.popleft()
        except Exception as error:  # Ray has many ways to say that it is not there, and none may reach the run
            self._failed(error)
        else:
            self._failing = False
            self._pause_until = 0.0 if self._receiver is not None else self._now() + PAUSE_SECONDS

    def _send(self, spans: Sequence[ReadableSpan], url: str, token_file: Path) -> None:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        request = urllib.request.Request(f"{url}/v1/traces", encode_spans(spans).SerializeToString(), method="POST")
        request.add_header("Content-Type", "application/x-protobuf")
        request.add_header("Authorization", f"Bearer {token_file.read_text(encoding='ascii').strip()}")
        try:
            with self._opener.open(request, timeout=SEND_SECONDS) as response:
                response.read()
        except HTTPError as error:
            with error:
                if error.code not in _HOPELESS:
                    raise
            log.warning("the API refuses %d spans, they are dropped: %s", len(spans), error)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            log.warning("spans wait for the API, the latest %d of them: %s", WAITING, error)
        self._failing = True
        # It may have moved, or have another token.
        self._receiver = None
        self._pause_until = self._now() + PAUSE_SECONDS
