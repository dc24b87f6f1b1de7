"""chDB: one engine for the process, one handle for each request or session."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import chdb

from enchanted.cluster.store.credentials import DATABASE
from enchanted.cluster.store.errors import EngineRefused, SyntaxRefused
from enchanted.schemas.sql_text import quoted

_chdb: Any = chdb._chdb
_NAME = re.compile(r"[A-Za-z_]\w*\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a statement read and wrote, in the words of ``X-ClickHouse-Summary``."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    elapsed_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What the engine's own parser says a text would do."""

    reads_only: bool
    statements: int


def identifier(name: str) -> str:
    """A ClickHouse identifier in backquotes."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


class Handle:
    """One connection to the engine: its settings, its current database, its temporary tables."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._settings: dict[str, str] = {}
        self._database = ""

    def configure(self, settings: Mapping[str, str], database: str) -> None:
        """Make exactly these settings and this database current.

        Raises:
            EngineRefused: a setting or the database does not exist.
        """
        gone = [f"{_setting(name)} = DEFAULT" for name in self._settings if name not in settings]
        new = [f"{_setting(k)} = {quoted(v)}" for k, v in settings.items() if self._settings.get(k) != v]
        if changes := gone + new:
            self._run(f"SET {', '.join(changes)}")
        self._settings = dict(settings)
        if database != self._database:
            self._run(f"USE {identifier(database)}")
            self._database = database

    def lost_database(self) -> None:
        """The current database was changed by a statement: the next `configure` sets it again."""
        self._database = ""

    def make_read_only(self) -> None:
        """The engine itself refuses writes and table functions after this.

        2 and not 1: with 1 the engine reports every setting as fixed, and clients then refuse to send any.
        """
        self._run("SET readonly = 2")

    def classify(self, sql: str) -> Kind:
        """Parse without running; text that does not parse counts no statement."""
        try:
            found = self._connection.classify_query(sql)
        except RuntimeError as error:
            raise EngineRefused(str(error)) from error
        reads_only = found["query_class"] == _chdb.query_class.READ_ONLY
        return Kind(reads_only=reads_only, statements=found["statement_count"])

    def query(self, sql: str, output: str, params: Mapping[str, str]) -> tuple[bytes, Summary]:
        """Run to the end; ``output`` is the format unless the SQL names one."""
        result = self._run(sql, output, params)
        body: bytes = result.bytes() or b""
        summary = Summary(
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
            result_rows=result.rows_read(),
            result_bytes=len(body),
            elapsed_ns=int(result.elapsed() * 1e9),
        )
        return body, summary

    def stream(self, sql: str, output: str, params: Mapping[str, str]) -> Generator[bytes, None, None]:
        """Run block by block. Only formats whose blocks can be strung together give a whole document."""
        connection, over = self._connection, False
        try:
            cursor = connection.send_query(sql, output, params=dict(params))
        except RuntimeError as error:
            raise EngineRefused(str(error)) from error
        try:
            while True:
                over = True
                block = connection.streaming_fetch_result(cursor)
                if block is None or block.rows_read() == 0:
                    return
                over = False
                yield block.bytes()
        except RuntimeError as error:
            raise EngineRefused(str(error)) from error
        finally:
            if not over:
                connection.streaming_cancel_query(cursor)

    def close(self) -> None:
        """Give the connection back; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _run(self, sql: str, output: str = "TabSeparated", params: Mapping[str, str] | None = None) -> Any:
        try:
            return self._connection.query(sql, output, params=dict(params or {}))
        except RuntimeError as error:
            raise EngineRefused(str(error)) from error


class Engine:
    """The process's chDB on one folder. Never fork while it is open: the child hangs at its first query."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder.resolve())
        self._keeper: Handle | None = None

    def __enter__(self) -> Self:
        self._keeper = keeper = self.handle()
        keeper.configure({}, "system")
        keeper.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}", "Null", {})
        self._close_the_file_system(keeper)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def handle(self) -> Handle:
        """A new connection, 0.2 ms; the caller closes it."""
        try:
            return Handle(_chdb.connect(self._path))
        except RuntimeError as error:
            raise EngineRefused(str(error)) from error

    def kill(self, tag: str = "") -> None:
        """Cancel the statements under this ``log_comment``, or all of them; inserts are left to end by themselves."""
        which = f"Settings['log_comment'] = {quoted(tag)}" if tag else "1"
        handle = self.handle()
        try:
            handle.query(f"KILL QUERY WHERE {which} AND query_kind NOT IN ('Insert', 'KillQuery') ASYNC", "Null", {})
        finally:
            handle.close()

    @staticmethod
    def _close_the_file_system(keeper: Handle) -> None:
        # chDB's own `default` database reads any file of the machine as a table: SELECT * FROM "/etc/passwd".
        keeper.query("DETACH DATABASE default", "Null", {})
        try:
            keeper.query("ATTACH DATABASE default", "Null", {})
        except EngineRefused:
            keeper.query("CREATE DATABASE default ENGINE = Memory", "Null", {})


def _setting(name: str) -> str:
    if not _NAME.match(name):
        raise SyntaxRefused(f"Syntax error: {name!r} is not the name of a setting")
    return name
