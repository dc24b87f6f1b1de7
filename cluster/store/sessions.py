"""Named sessions: a handle that lives between requests, as ``session_id`` asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from enchanted.cluster.store.engine import Engine, Handle
from enchanted.cluster.store.errors import SessionLocked, SessionNotFound

DEFAULT_TIMEOUT = 60.0
"""Seconds without a request after which a session ends."""
LONGEST_TIMEOUT = 3600.0


class _Session:
    def __init__(self, handle: Handle, database: str) -> None:
        self.handle = handle
        self.database = database
        self.statements: list[str] = []
        self.busy = threading.Lock()
        self.ends = 0.0


class Sessions:
    """Every session of one engine. ``now`` is a monotonic clock in seconds."""

    def __init__(self, engine: Engine, now: Callable[[], float]) -> None:
        self._engine = engine
        self._now = now
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    @contextmanager
    def use(
        self, session_id: str, settings: Mapping[str, str], database: str, *, timeout: float, must_exist: bool
    ) -> Iterator[Handle]:
        """The session's handle, with a request's settings on top of what the session itself has set.

        Raises:
            SessionLocked: another request is using it.
            SessionNotFound: ``must_exist`` and it does not.
        """
        session = self._take(session_id, database, must_exist=must_exist)
        try:
            if session.statements:
                # Settings of a request come and go; those the session itself SET are put back underneath.
                session.handle.configure({}, session.database)
            for statement in session.statements:
                session.handle.query(statement, "Null", {})
            session.handle.configure(settings, database or session.database)
            yield session.handle
        finally:
            session.ends = self._now() + min(timeout, LONGEST_TIMEOUT)
            session.busy.release()

    def remember(self, session_id: str, keyword: str, sql: str) -> None:
        """Keep a SET or USE of the session, once it has succeeded."""
        session = self._sessions[session_id]
        if keyword == "SET":
            session.statements.append(sql)
        elif keyword == "USE":
            session.database = sql.strip().rstrip(";").split()[-1].strip('`"')
            session.handle.lost_database()

    def close(self) -> None:
        """End every session."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.handle.close()

    def _take(self, session_id: str, database: str, *, must_exist: bool) -> _Session:
        with self._lock:
            self._end_old_ones()
            session = self._sessions.get(session_id)
            if session is None:
                if must_exist:
                    raise SessionNotFound(session_id)
                session = self._sessions[session_id] = _Session(self._engine.handle(), database)
            if not session.busy.acquire(blocking=False):
                raise SessionLocked(session_id)
            return session

    def _end_old_ones(self) -> None:
        now = self._now()
        for session_id, session in list(self._sessions.items()):
            if session.ends and session.ends < now and not session.busy.locked():
                session.handle.close()
                del self._sessions[session_id]
