"""One class per condition; each knows the HTTP answer it becomes, and its message names the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil
from typing import Any, ClassVar


class ServeError(Exception):
    """Base of everything the API answers with a problem document."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""
    members: Mapping[str, Any] = {}
    """Further members of the problem document."""


class Unauthorized(ServeError):
    """No bearer token, or a wrong one."""

    status, code, title = 401, "unauthorized", "A valid bearer token is needed"

    def __init__(self) -> None:
        super().__init__("send 'Authorization: Bearer <token>'; `enchanted status --json` names the token file")


class CodeRefused(ServeError):
    """A one-time code that is used, too old or wrong."""

    status, code, title = 403, "code-refused", "This link was used or is too old"

    def __init__(self) -> None:
        super().__init__("`enchanted open` prints a new one; or give the token, `enchanted status` names its file")


class OriginRefused(ServeError):
    """A browser page of another origin asks."""

    status, code, title = 403, "origin-refused", "This origin may not use the API"

    def __init__(self) -> None:
        super().__init__("open the page from the API's own address, or name its origin in the setting `api.origins`")


class HostRefused(ServeError):
    """The Host header names somebody else: a proxy's mistake or DNS rebinding."""

    status, code, title = 421, "host-refused", "This host name is not served here"

    def __init__(self) -> None:
        super().__init__("use the address that `enchanted status` prints, or name the host in the setting `api.hosts`")


class NotFound(ServeError):
    """Base of the 404 answers."""

    status = 404


class RunNotFound(NotFound):
    """No event belongs to this run or trace id."""

    code, title = "run-not-found", "No such run"

    def __init__(self, run: str) -> None:
        super().__init__(f"no event of run {run!r} is stored; `enchanted runs` lists the runs")


class EventNotFound(NotFound):
    """No event has this id."""

    code, title = "event-not-found", "No such event"

    def __init__(self, event_id: str) -> None:
        super().__init__(
            f"no event {event_id!r} is stored; an event is queryable about a second after it was published"
        )


class TraceNotFound(NotFound):
    """No event and no span carries this trace id."""

    code, title = "trace-not-found", "No such trace"

    def __init__(self, trace_id: str) -> None:
        super().__init__(
            f"no event and no span of trace {trace_id!r} is stored; `enchanted runs` lists runs with their trace ids"
        )


class PathNotFound(NotFound):
    """The file does not exist at that sequence."""

    code, title = "path-not-found", "No such file at this sequence"

    def __init__(self, path: str, seq: int) -> None:
        super().__init__(
            f"{path!r} is not in the workspace at sequence {seq}; the state without `path` lists its files"
        )


class AgentNotFound(NotFound):
    """The run has no such agent up to that sequence."""

    code, title = "agent-not-found", "No such agent at this sequence"

    def __init__(self, agent: str, seq: int | None) -> None:
        until = "" if seq is None else f" up to sequence {seq}"
        super().__init__(f"nobody called {agent!r} wrote an event{until}; the state lists the agents by id and name")


class ContextNotFound(NotFound):
    """There is no context window to show: no model was asked yet, or its prompt was never recorded."""

    code, title = "context-not-found", "No context window at this sequence"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; `context_seq` in the state says since when each agent has one")


class ContextUnavailable(NotFound):
    """The messages of a model call were recorded, and are gone."""

    code, title = "context-unavailable", "The messages of this model call are gone"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}; the state names the call and the hash of its messages, other sequences may have theirs"
        )


class ContextTooLarge(ServeError):
    """The messages of a model call are more than an answer holds."""

    status, code, title = 422, "context-too-large", "The messages of this model call are too large"

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"they have {size} bytes, at most {most} are shown; other sequences may have smaller ones")


class BinaryFile(ServeError):
    """A file without lines."""

    status, code, title = 422, "binary-file", "The file is binary"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path!r} has no lines that somebody wrote; its `history` names every change of it")


class TooLargeToBlame(ServeError):
    """More text than lines are looked up in."""

    status, code, title = 422, "too-large-to-blame", "The file is too large for a look at each line"

    def __init__(self, found: str, most: str) -> None:
        super().__init__(f"{found}, at most {most}; its `history` names every change of it")


class WorkspaceNotFound(NotFound):
    """The run has no such workspace at that sequence."""

    code, title = "workspace-not-found", "No such workspace at this sequence"

    def __init__(self, workspace: str, seq: int | None) -> None:
        at = "the latest sequence" if seq is None else f"sequence {seq}"
        super().__init__(f"workspace {workspace!r} has no state at {at}; the state lists the workspaces")


class BodyTooLarge(ServeError):
    """A request's body is longer than any the API takes."""

    status, code, title = 413, "body-too-large", "The body of the request is too large"

    def __init__(self, most: int) -> None:
        super().__init__(f"no request has more than {most} bytes; name files instead of sending them")


class BadRequest(ServeError):
    """A parameter that is well formed but cannot be used."""

    status, code, title = 400, "bad-request", "The request cannot be answered"


class UnsupportedMedia(ServeError):
    """A body in an encoding the route does not read."""

    status, code, title = 415, "unsupported-media", "The encoding of the body is not understood"


class SqlRefused(BadRequest):
    """A statement that the API does not pass on to ClickHouse."""

    code, title = "sql-refused", "The query is not allowed"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; send one SELECT over events, events_list, spans and agent_hourly")


class SqlFailed(BadRequest):
    """ClickHouse did not run a statement to its end; the message is its own."""

    code, title = "sql-failed", "ClickHouse refused the query"


class SqlResultTooLarge(BadRequest):
    """An answer longer than the API gives."""

    code, title = "sql-result-too-large", "The answer is too large"

    def __init__(self, most: int) -> None:
        super().__init__(f"no answer has more than {most} bytes; select fewer columns or rows, or use GET /export")


class TooMuchAsked(BadRequest):
    """A question whose answer, or the way to it, is larger than the API's limits."""

    code, title = "too-much-asked", "The question takes too much"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; ask for a run, an agent, a service or a shorter time")


class SpanTooLong(BadRequest):
    """A question about more time than the settings allow."""

    code, title = "span-too-long", "The time asked for is too long"

    def __init__(self, asked: timedelta, most: timedelta) -> None:
        days, limit = asked / timedelta(days=1), most / timedelta(days=1)
        super().__init__(
            f"it has {days:,.1f} days, at most {limit:g} in one request; ask for a shorter time, one piece after the "
            "other, or raise `api.max_days` in the settings"
        )


class BadCursor(BadRequest):
    """A cursor that was not given out for these filters."""

    code, title = "bad-cursor", "Unknown cursor"

    def __init__(self) -> None:
        super().__init__("pass meta.cursor of the last page unchanged, with the same filters, or leave it out")


class SequenceAhead(ServeError):
    """A resume position the stream has not reached."""

    status, code, title = 409, "sequence-ahead", "The stream has not reached this sequence"

    def __init__(self, seq: int, last: int) -> None:
        super().__init__(f"asked to resume after {seq}, the stream ends at {last}; it is another stream: resume from 0")


class KeyReused(ServeError):
    """An Idempotency-Key came again with another body."""

    status, code, title = 422, "idempotency-key-reused", "This Idempotency-Key belongs to another request"

    def __init__(self) -> None:
        super().__init__("send the same body as the first time, or a new Idempotency-Key")


class TooManyStreams(ServeError):
    """The cap on open live streams is reached."""

    status, code, title, retry_after = 429, "too-many-streams", "Too many live streams are open", 5

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams are open; close one and try again")


class TooManyChecks(ServeError):
    """The cap on checks of patches at the same time is reached, and none ended meanwhile."""

    status, code, title, retry_after = 429, "too-many-checks", "Too many checks of patches are under way", 10

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} are under way; try again when one has ended")


class RateLimited(ServeError):
    """One client asks too often."""

    status, code, title = 429, "rate-limited", "Too many requests"

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, ceil(seconds))
        super().__init__(
            f"this address may ask again in {self.retry_after} s; ask for more at a time (`limit`, GET /export, "
            "GET /stream), or raise `api.requests_per_second` in the settings"
        )


class RestoreRefused(ServeError):
    """The place to restore into does not allow it."""

    status, code, title = 409, "restore-refused", "The state cannot be restored there"


class UndoRefused(ServeError):
    """A change cannot be taken back."""

    status, code, title = 409, "undo-refused", "The change cannot be undone"

    def __init__(self, why: str, conflicts: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.members = {"conflicts": list(conflicts)}


class ForkRefused(ServeError):
    """There is no state to fork from."""

    status, code, title = 409, "fork-refused", "The run cannot be forked there"


class EventCorrupted(ServeError):
    """The stored bytes of an event are not the published ones."""

    code, title = "event-corrupted", "The stored bytes do not match their recorded hash"

    def __init__(self, event_id: str, seq: int, expected: str, found: str) -> None:
        super().__init__(
            f"event {event_id} (sequence {seq}) was stored with SHA-256 {expected} and reads back as {found}; "
            f"`enchanted verify RUN` names what is damaged, the stream still holds the original for 30 days"
        )


class ContentUnavailable(NotFound):
    """What is stored of a run does not lead to its files, and will not."""

    code, title = "content-unavailable", "The run's files cannot be rebuilt"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; file contents need the run's base bundle on the bus and every patch since")


class ContentDelayed(ServeError):
    """The files of a run cannot be rebuilt for now."""

    status, code, title = 503, "content-delayed", "The run's files cannot be rebuilt now"
    retry_after = 5

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; what was made so far is kept, and the next attempt goes on from there")


class StoreUnavailable(ServeError):
    """ClickHouse did not answer in time."""

    status, code, title, retry_after = 503, "store-unavailable", "The table store cannot be reached", 2

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; `enchanted status` shows the services, `enchanted up` starts them")


class StoreSlow(StoreUnavailable):
    """The deadline passed before ClickHouse answered."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")


class StoreExhausted(StoreUnavailable):
    """An answer took more memory than ClickHouse has for it."""


class BusUnavailable(ServeError):
    """NATS did not answer in time."""

    status, code, title, retry_after = 503, "bus-unavailable", "The message bus cannot be reached", 2

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; `enchanted status` shows the services, `enchanted up` starts them")


class TableBehind(ServeError):
    """What the stream has of a run is not in the table yet."""

    status, code, title, retry_after = 503, "table-behind", "The table has not got all of this run yet", 5

    def __init__(self, run: str, wanted: int, why: str) -> None:
        super().__init__(
            f"{run} goes to sequence {wanted}, and {why}; ask again, or name an earlier sequence; "
            "`enchanted status` shows how far ingest is"
        )


class RunsUnavailable(ServeError):
    """This process cannot start or stop runs."""

    status, code, title, retry_after = 503, "runs-unavailable", "Runs cannot be started here", 5

    def __init__(self, why: str = "no run starter is connected") -> None:
        super().__init__(f"{why}; start runs with `enchanted run`, or serve the API through `enchanted up`")
