"""Run one request's statement on a worker thread: which path it takes, and what comes back."""

from __future__ import annotations

import email.parser
import email.policy
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from enchanted.cluster.store.body import Body
from enchanted.cluster.store.credentials import Right
from enchanted.cluster.store.engine import Engine, Handle, Summary
from enchanted.cluster.store.errors import BodyUnreadable, NotSupported, ReadOnly, SyntaxRefused
from enchanted.cluster.store.guard import check_database, check_reader, reader_settings
from enchanted.cluster.store.request import Request, database_of, params_of
from enchanted.cluster.store.sessions import Sessions
from enchanted.cluster.store.sql import HEADER_LIMIT, Insert, find_insert, output_format
from enchanted.schemas.sql_text import first_word

STREAMABLE = frozenset(
    {"Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow", "NDJSON"}
)
"""Formats whose blocks make one document when strung together; any other has a head or a foot."""
READY = 1024**2
"""Bytes of a result up to which it is sent whole, with its length."""
_STREAMED_WORDS = frozenset({"SELECT", "WITH"})
_SILENT_WORDS = frozenset(
    {"INSERT", "CREATE", "DROP", "ALTER", "SET", "USE", "ATTACH", "DETACH", "RENAME", "TRUNCATE", "OPTIMIZE",
     "SYSTEM", "DELETE", "UPDATE", "GRANT", "REVOKE", "EXCHANGE", "UNDROP"}
)  # fmt: skip
_NDJSON = frozenset({"JSONEachRow", "NDJSON", "JSONCompactEachRow"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a statement gave: nothing, a whole result, or blocks still to come."""

    format: str
    """Empty where the statement has no result."""
    body: bytes = b""
    summary: Summary = field(default_factory=Summary)
    blocks: Generator[bytes, None, None] | None = None
    close: Callable[[], None] = lambda: None
    """To be called once, whatever happened, when ``blocks`` is set."""

    @property
    def content_type(self) -> str:
        """As a ClickHouse server names it."""
        if not self.format or self.format.startswith(("TabSeparated", "TSV")):
            return "text/tab-separated-values; charset=UTF-8"
        if self.format in _NDJSON:
            return "application/x-ndjson; charset=UTF-8"
        if self.format.startswith("JSON"):
            return "application/json; charset=UTF-8"
        if self.format.startswith("CSV"):
            return "text/csv; charset=UTF-8; header=absent"
        if self.format.startswith(("Pretty", "Vertical", "Values", "Markdown", "XML")):
            return "text/plain; charset=UTF-8"
        return "application/octet-stream"


class Runner:
    """Runs statements; every call may block and belongs on a worker thread."""

    def __init__(self, engine: Engine, now: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._sessions = Sessions(engine, now)

    def close(self) -> None:
        """End the sessions."""
        self._sessions.close()

    def run(self, request: Request, right: Right, body: Body) -> Answer:
        """Do what the request asks.

        Raises:
            ClickHouseError: with the code a server would answer.
        """
        if request.content_type.startswith("multipart/form-data"):
            request, body = _form(request, body), Body(body.folder)
        settings = reader_settings(request.settings) if right == "reader" else dict(request.settings)
        settings["log_comment"] = request.query_id
        with ExitStack() as stack:
            handle = self._handle(stack, request, right, settings)
            answer = self._statement(handle, request, right, body)
            if answer.blocks is not None:
                stack.callback(answer.blocks.close)
                answer = replace(answer, close=stack.pop_all().close)
        return answer

    def _handle(self, stack: ExitStack, request: Request, right: Right, settings: Mapping[str, str]) -> Handle:
        # A reader has nothing to keep between requests, and its handle stays read-only once it is.
        if request.session_id and right == "writer":
            return stack.enter_context(
                self._sessions.use(
                    request.session_id,
                    settings,
                    database_of(request),
                    timeout=request.session_timeout,
                    must_exist=request.session_check,
                )
            )
        if right == "reader":
            check_database(database_of(request))
        handle = self._engine.handle()
        stack.callback(handle.close)
        handle.configure(settings, database_of(request))
        return handle

    def _statement(self, handle: Handle, request: Request, right: Right, body: Body) -> Answer:
        prefix = request.query.encode()
        if prefix and body.size:
            prefix += b"\n"
        head = prefix + body.head(HEADER_LIMIT)
        insert = find_insert(head)
        if insert is not None and right == "writer" and request.method != "GET":
            return Answer(format="", summary=_insert(handle, insert, prefix, body))
        try:
            sql = (prefix + b"".join(body.chunks(0))).decode()
        except UnicodeDecodeError as error:
            raise BodyUnreadable(f"the statement is not UTF-8: {error}") from error
        keyword = first_word(head)
        output = output_format(sql.encode()) or request.default_format
        if right == "reader":
            check_reader(handle, sql, output, request.params)
        elif keyword != "INSERT" or request.method == "GET":
            _check_writer(handle, sql, request.method)
        if keyword in _STREAMED_WORDS and output in STREAMABLE and not request.wait:
            return _stream(handle, sql, output, request.params)
        result, summary = handle.query(sql, output, request.params)
        if request.session_id and right == "writer" and keyword in ("SET", "USE"):
            self._sessions.remember(request.session_id, keyword, sql)
        silent = keyword in _SILENT_WORDS and not result
        return Answer(format="" if silent else output, body=result, summary=summary)


def _check_writer(handle: Handle, sql: str, method: str) -> None:
    kind = handle.classify(sql)
    if kind.statements > 1:
        raise SyntaxRefused("Syntax error: Multi-statements are not allowed")
    if method == "GET" and kind.statements == 1 and not kind.reads_only:
        raise ReadOnly("GET only reads; use POST")


def _stream(handle: Handle, sql: str, output: str, params: Mapping[str, str]) -> Answer:
    blocks = handle.stream(sql, output, params)
    # What comes soon is made before the response begins, so that most errors still become its status.
    ready: list[bytes] = []
    size = 0
    for block in blocks:
        ready.append(block)
        size += len(block)
        if size >= READY:
            break
    else:
        return Answer(format=output, body=b"".join(ready), summary=Summary(result_bytes=size))

    def whole() -> Generator[bytes, None, None]:
        with closing(blocks):
            yield b"".join(ready)
            yield from blocks

    return Answer(format=output, blocks=whole())


def _insert(handle: Handle, insert: Insert, prefix: bytes, body: Body) -> Summary:
    # By a file: chDB's own way to append rows says that all is well when a full disk took none of them.
    with body.file(prefix[insert.data_start :], max(0, insert.data_start - len(prefix))) as file:
        # By its descriptor, since a path may hold signs of a glob.
        return handle.query(insert.reading(f"/proc/self/fd/{file.fileno()}"), "Null", {})[1]


def _form(request: Request, body: Body) -> Request:
    head = f"Content-Type: {request.content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + b"".join(body.chunks(0)))
    fields: dict[str, str] = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise NotSupported("external data; insert the rows into a temporary table of a session instead")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        fields[str(name)] = content.decode() if isinstance(content, bytes) else ""
    params = {**request.params, **params_of(fields)}
    return replace(request, query=fields.get("query", request.query), params=params)
