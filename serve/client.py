"""The HTTP API as a small typed client, for the command line and for scripts. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import httpx

from enchanted.serve.client_answers import document, file_pieces, live_pieces, of_type
from enchanted.serve.client_errors import ApiSlow, ApiUnreachable, NothingFound
from enchanted.serve.client_requests import Requests, given, part
from enchanted.serve.guard.codes import NONCE, new_code
from enchanted.serve.live.frames import Frame, lines_of, parse_frames

Json = dict[str, Any]
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
REBUILD = httpx.Timeout(150.0, connect=5.0)
"""For what may have to build a state anew from the log, which takes up to two minutes."""
SILENCE = 40.0
"""Seconds without a heartbeat after which a live connection is given up and resumed."""
RERUN = 600.0
"""Seconds a rerun and those before it may take."""
RESUME_PAUSE = 1.0
POLL = 0.1
LAST_SEQ = 2**63 - 1
GONE = 60.0
"""Seconds a server may be away before following it ends."""


class ApiClient:
    """One API by URL and token.

    ``lost`` is told each time that the server of what is followed goes away, and why; it is asked again meanwhile.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        lost: Callable[[ApiUnreachable], None] = lambda _: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._lost = lost
        self._token = token
        # Reading the certificate authorities takes longer than most answers; plain HTTP needs none.
        verify = self.url.startswith("https:")
        if transport is None and _is_here(self.url):
            # A transport of its own goes by no proxy of the environment, which would be given the token.
            transport = httpx.HTTPTransport(verify=verify)
        self._http = Requests(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            verify=verify,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def page(self, run: str = "") -> str:
        """A link to Mission Control that opens it for whoever has it, once and for ten minutes.

        Its fragment carries a one-time code, which is never sent to a server unasked.
        """
        code = new_code(self._token, now=time.time(), nonce=secrets.token_bytes(NONCE))
        return f"{self.url}/{f'runs/{part(run)}' if run else ''}#code={code}"

    def runs(self, *, limit: int = 100, cursor: str | None = None, q: str | None = None) -> Json:
        """A page of runs; with ``q`` of those that have all its words."""
        return self._json("runs", limit=limit, cursor=cursor, q=q)

    def run(self, run: str) -> Json:
        """One run."""
        return self._json(f"runs/{part(run)}")

    def start(self, body: Mapping[str, Any], *, key: str | None = None) -> Json:
        """Start a run; a key makes a repeated call start it once."""
        return self._post("runs", body, key=key)

    def cancel(self, run: str) -> Json:
        """Ask a run to end."""
        return self._post(f"runs/{part(run)}/cancel")

    def events(self, **filters: object) -> Json:
        """A page of events."""
        return self._json("events", **filters)

    def all_events(self, **filters: object) -> Iterator[Json]:
        """Every event the filters let through, page after page, in stream order."""
        if filters.get("before") is not None and filters.get("after") is None:
            filters = {**filters, "after": 0}
        cursor = None
        while True:
            page = self._json("events", **{**filters, "limit": 1_000}, cursor=cursor)
            yield from page["data"]
            cursor = page["meta"]["cursor"]
            if cursor is None:
                return

    def event(self, event_id: str) -> Json:
        """One event."""
        return self._json(f"events/{part(event_id)}")

    def raw(self, event_id: str) -> bytes:
        """Its published bytes."""
        with self._errors():
            return of_type("application/octet-stream", self._http.get(f"/api/v1/events/{part(event_id)}/raw")).content

    def trace(self, trace_id: str) -> Json:
        """A trace's events by span."""
        return self._json(f"traces/{part(trace_id)}")

    def state(
        self, run: str, *, at: int | None = None, path: str | None = None, path_hex: str | None = None,
        workspace: str | None = None,
    ) -> Json:  # fmt: skip
        """A run at a sequence, or one file of it; ``path_hex`` is for a name that is not UTF-8, here and below."""
        file = {"path": path, "path_hex": path_hex, "workspace": workspace}
        return self._json(f"runs/{part(run)}/state", REBUILD, at=at, **file)

    def context(self, run: str, agent: str, *, at: int | None = None) -> Json:
        """What an agent's model was given last, up to a sequence."""
        return self._json(f"runs/{part(run)}/agents/{part(agent)}/context", seq=at)

    def diff(self, run: str, start: int, end: int, *, workspace: str | None = None) -> str:
        """The unified diff between two sequences."""
        with self._errors():
            parameters = given({"from": start, "to": end, "workspace": workspace})
            url = f"/api/v1/runs/{part(run)}/diff"
            return of_type("text/x-diff", self._http.get(url, params=parameters, timeout=REBUILD)).text

    def verify(self, run: str, *, deep: bool | None = None) -> Json:
        """Both verdicts; ``deep`` holds the patches against the trees too, for a minute and a half at most."""
        return self._json(f"runs/{part(run)}/verify", REBUILD, deep=deep)

    def verify_patches(self, run: str, *, after: int = 0) -> Json:
        """The patches alone, ten seconds of them; ``after`` is the ``until`` of the last call."""
        return self._json(f"runs/{part(run)}/verify/patches", REBUILD, after=after)

    def restore(self, run: str, body: Mapping[str, Any]) -> Json:
        """Put a state into a folder or onto a branch; with ``dry_run`` only what that would do."""
        return self._post(f"runs/{part(run)}/restores", body, timeout=REBUILD)

    def undo(self, run: str, event_id: str, *, dry_run: bool = False) -> Json:
        """Take one change back, or say what that would do."""
        return self._post(f"runs/{part(run)}/undos", {"event_id": event_id, "dry_run": dry_run}, timeout=REBUILD)

    def fork(self, run: str, body: Mapping[str, Any], *, key: str | None = None) -> Json:
        """Start a run from another one's state; a key makes a repeated call start it once."""
        return self._post(f"runs/{part(run)}/forks", body, key=key, timeout=REBUILD)

    def agent_stats(self, **filters: object) -> Json:
        """What agents did, by agent and bucket of time."""
        return self._json("agents/stats", **filters)

    def facets(self, **filters: object) -> Json:
        """The values that the events of a filter have, and how many events have each."""
        return self._json("facets", **filters)

    def reverted_decisions(self, **filters: object) -> Json:
        """Unsure decisions that led to changes which were taken back."""
        return self._json("decisions/reverted", **filters)

    def sql(self, query: str, *, limit: int | None = None) -> Json:
        """The answer to one SELECT: columns, rows, and whether there are more."""
        body = {"query": query} if limit is None else {"query": query, "limit": limit}
        with self._errors():
            return document(self._http.post("/api/v1/sql", json=body))

    def export(self, **what: object) -> Iterator[bytes]:
        """A file of events, piece by piece; it is whole only if no error comes."""
        with self._errors(), self._http.stream("GET", "/api/v1/export", params=given(what)) as response:
            if not response.is_success:
                response.read()
            yield from file_pieces(response)

    def export_html(self, run: str) -> Iterator[bytes]:
        """A run as one HTML file, piece by piece; it is whole only if no error comes."""
        with self._errors(), self._http.stream("GET", f"/api/v1/runs/{part(run)}/export.html") as response:
            if not response.is_success:
                response.read()
            yield from file_pieces(response)

    def compare(self, run: str, other: str, *, diffs: bool = False) -> Json:
        """Two runs side by side; ``diffs``: and what their differing files say otherwise."""
        resource = f"runs/{part(run)}/compare/{part(other)}"
        return self._json(resource, REBUILD, diffs="true" if diffs else None)

    def rerun(self, run: str, *, start: int = 0) -> Json:
        """Run it again from its log and compare; takes as long as that takes."""
        with self._errors():
            timeout = httpx.Timeout(RERUN, connect=5.0)
            url = f"/api/v1/runs/{part(run)}/reruns"
            return document(self._http.post(url, params={"from": start}, timeout=timeout))

    def history(
        self, run: str, path: str | None = None, *, path_hex: str | None = None, at: int | None = None,
        workspace: str | None = None,
    ) -> Json:  # fmt: skip
        """Every change of a file, the newest last."""
        return self._json(f"runs/{part(run)}/history", path=path, path_hex=path_hex, at=at, workspace=workspace)

    def blame(
        self, run: str, path: str | None = None, *, path_hex: str | None = None, at: int | None = None,
        workspace: str | None = None,
    ) -> Json:  # fmt: skip
        """Each line of a file with the change that wrote it."""
        file = {"path": path, "path_hex": path_hex, "workspace": workspace}
        return self._json(f"runs/{part(run)}/blame", REBUILD, at=at, **file)

    def receipt(self, run: str, *, until: int | None = None) -> Json:
        """What a run is now, or was at a sequence: to be kept elsewhere."""
        return self._json(f"runs/{part(run)}/receipt", until=until)

    def pipeline(self) -> Json:
        """Where events and spans are between stream and table."""
        return self._json("pipeline")

    def cluster(self) -> Json:
        """Nodes, engines, models, and everybody who said lately how it is."""
        return self._json("cluster")

    def recovery(self, run: str) -> Json:
        """The run's last valid state, and why the later ones are not."""
        return self._json(f"runs/{part(run)}/recovery")

    def ready(self) -> Json:
        """Each dependency's state; an unready API answers with the same members."""
        with self._errors():
            return document(self._http.get("/readyz"), also=(httpx.codes.SERVICE_UNAVAILABLE,))

    def follow(self, *, after: int | None = None, **filters: object) -> Iterator[Json]:
        """Events as they are stored, for ever: a broken connection is resumed after the last one seen.

        Raises:
            ApiUnreachable: the API was away for longer than a minute.
        """
        return self._resumed("stream", after, filters)

    def play(
        self, run: str, *, start: int | None = None, speed: float | None = None, max_gap: float | None = None
    ) -> Iterator[Json]:
        """What the run has by now, paced as it came, until its end; a broken connection is resumed.

        Raises:
            NothingFound: there is no such run.
            ApiUnreachable: the API was away for longer than a minute.
        """
        what = {"from": start, "speed": speed, "max_gap": max_gap}
        return self._resumed(f"runs/{part(run)}/play", None, what)

    def wait_queryable(self, run: str, seq: int, *, seconds: float = 15.0) -> bool:
        """Wait until the table has the run's event with this sequence; False when it takes longer than ``seconds``."""
        give_up = time.monotonic() + seconds
        while True:
            with suppress(ApiUnreachable):
                newest = self.events(run=run, before=LAST_SEQ, limit=1, fields="seq")["data"]
                if newest and newest[0]["seq"] >= seq:
                    return True
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL)

    def wait_closed(self, run: str, *, seconds: float = 15.0) -> bool:
        """Wait until the table has the run to its closing event; False when it takes longer than ``seconds``."""
        give_up = time.monotonic() + seconds
        while True:
            with suppress(NothingFound, ApiUnreachable):
                if self.run(run)["closed"]:
                    return True
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL)

    def _resumed(self, resource: str, after: int | None, parameters: Mapping[str, object]) -> Iterator[Json]:
        lost_at: float | None = None
        while True:
            try:
                for frame in self._listen(resource, after, parameters):
                    if frame.kind == "end":
                        return
                    after, lost_at = frame.seq, None
                    if frame.document is not None:
                        yield frame.document
            except ApiUnreachable as error:
                if lost_at is None:
                    lost_at = time.monotonic()
                    self._lost(error)
                elif time.monotonic() - lost_at > GONE:
                    raise
            time.sleep(RESUME_PAUSE)

    def _listen(self, resource: str, after: int | None, parameters: Mapping[str, object]) -> Iterator[Frame]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        timeout = httpx.Timeout(SILENCE, connect=5.0)
        with (
            self._errors(),
            self._http.stream(
                "GET", f"/api/v1/{resource}", params=given(parameters), headers=headers, timeout=timeout
            ) as response,
        ):
            if not response.is_success:
                response.read()
            yield from parse_frames(lines_of(live_pieces(response)))

    def _post(
        self,
        resource: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> Json:
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None if body is None else dict(body)
        with self._errors():
            return document(self._http.post(f"/api/v1/{resource}", json=content, headers=headers, timeout=timeout))

    def _json(self, resource: str, timeout: httpx.Timeout = TIMEOUT, /, **parameters: object) -> Json:
        with self._errors():
            return document(self._http.get(f"/api/v1/{resource}", params=given(parameters), timeout=timeout))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ReadTimeout as error:
            raise ApiSlow(self.url, error.request.extensions["timeout"]["read"]) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            why = str(error) or type(error).__name__
            raise ApiUnreachable(
                f"the API at {self.url} does not answer ({why}); `enchanted up` starts it, `enchanted status` shows it"
            ) from error


def _is_here(url: str) -> bool:
    host = httpx.URL(url).host
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")
