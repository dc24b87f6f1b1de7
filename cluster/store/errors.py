"""One class per condition. Those a client can meet carry ClickHouse's code and name, as a server would answer."""

from __future__ import annotations

import re
from pathlib import Path


class StoreError(Exception):
    """Base of everything the store can object to."""


class FolderHeld(StoreError):
    """Another process owns the data folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is held by {holder}; stop it or choose another --folder")


class CredentialsUnreadable(StoreError):
    """The credentials file is not what `credentials.create` writes."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"credentials {path}: {why}; remove the file and start again to have a new one made")


class ClickHouseError(StoreError):
    """An answer to a client, in ClickHouse's own terms."""

    code: int = 1001
    name: str = "STD_EXCEPTION"

    def __init__(self, why: str) -> None:
        super().__init__(why)

    @property
    def body(self) -> str:
        """The text a ClickHouse server puts into the response."""
        return f"Code: {self.code}. DB::Exception: {self}. ({self.name})\n"

    @property
    def status(self) -> int:
        """The HTTP status a ClickHouse server answers this code with."""
        return _STATUS.get(self.code, 500)


class AuthenticationFailed(ClickHouseError):
    """No, or wrong, credentials."""

    code, name = 516, "AUTHENTICATION_FAILED"

    def __init__(self, user: str) -> None:
        super().__init__(f"{user}: authentication failed; `enchanted status` prints a URL with credentials")


class AccessDenied(ClickHouseError):
    """The reader asked for more than reading named tables."""

    code, name = 497, "ACCESS_DENIED"

    def __init__(self, what: str) -> None:
        super().__init__(f"not allowed for the reader: {what}; read the store's tables with one SELECT")


class ReadOnly(ClickHouseError):
    """A change where only reading is allowed."""

    code, name = 164, "READONLY"

    def __init__(self, what: str) -> None:
        super().__init__(f"Cannot execute query in readonly mode: {what}")


class SyntaxRefused(ClickHouseError):
    """The request holds no statement, or several."""

    code, name = 62, "SYNTAX_ERROR"


class NotSupported(ClickHouseError):
    """A part of the protocol this front leaves out."""

    code, name = 48, "NOT_IMPLEMENTED"


class DiskFull(ClickHouseError):
    """A body could not be put down."""

    code, name = 243, "NOT_ENOUGH_SPACE"


class BodyTooLarge(ClickHouseError):
    """The request body is over the limit."""

    code, name = 307, "TOO_MANY_BYTES"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes; send it in smaller batches")


class BodyUnreadable(ClickHouseError):
    """The request body cannot be decompressed, or is not UTF-8 where SQL is expected."""

    code, name = 27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"


class SessionLocked(ClickHouseError):
    """Two requests at once in one session."""

    code, name = 373, "SESSION_IS_LOCKED"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} is locked by a concurrent client; use one session per thread")


class SessionNotFound(ClickHouseError):
    """`session_check` was asked for and the session has ended."""

    code, name = 372, "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} not found; send the request without session_check to begin one")


class TooManyQueries(ClickHouseError):
    """No thread came free in time."""

    code, name = 202, "TOO_MANY_SIMULTANEOUS_QUERIES"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many simultaneous queries: none finished within {seconds:g} s; try again")


class EngineRefused(ClickHouseError):
    """chDB's own exception, kept word for word."""

    def __init__(self, message: str) -> None:
        start = message.find("Code: ")
        self.message = message[start:] if start >= 0 else message
        code = re.match(r"Code: (\d+)", self.message)
        names = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", self.message)
        self.code = int(code.group(1)) if code else 1001
        self.name = names[-1] if names else "STD_EXCEPTION"
        super().__init__(self.message)

    @property
    def body(self) -> str:
        """The message as the engine gave it."""
        return self.message.rstrip() + "\n"


_BAD_REQUEST = (6, 26, 27, 38, 41, 43, 44, 53, 62, 69, 70, 72, 117, 321, 427, 691)
_NOT_FOUND = (16, 46, 47, 50, 56, 60, 73, 81, 115, 372)
_STATUS: dict[int, int] = {
    **dict.fromkeys(_BAD_REQUEST, 400),
    **dict.fromkeys(_NOT_FOUND, 404),
    48: 501,
    159: 408,
    192: 403,
    193: 403,
    194: 401,
    202: 503,
    209: 503,
    307: 413,
    497: 403,
    516: 403,
}
