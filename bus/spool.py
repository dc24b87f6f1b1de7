"""A bounded file for messages the bus cannot take now. Each record is one append: length, CRC-32, then its messages."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import BusError

_HEAD = struct.Struct(">II")
_META = struct.Struct(">I")
_BODY = re.compile(rb"\[\d+, \[")
"""How what follows `_META` begins."""
_BODY_AT = _HEAD.size + _META.size
_PIECE = 16 * 1024 * 1024
"""Bytes of one read; Linux gives no more than 2 GiB."""

log = logging.getLogger(__name__)


class SpoolFull(BusError):
    """The messages do not fit; they are not on this disk, and may be in the stream only if the bus was tried first."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(f"the spool {path} would exceed {limit} bytes; bring the bus back, or give it a larger limit")


class SpoolUnusable(BusError):
    """The file cannot be locked, read or written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"the spool {path} cannot be used: {why}; keep the file, it may hold acknowledged messages")


@dataclass(frozen=True, slots=True)
class Record:
    """Messages that were spooled together."""

    messages: list[Outgoing]
    after: int
    """Where looking their ids up in the stream begins; 0 for its start."""
    end: int
    """Offset behind it in the file."""


class Spool:
    """Survives ``kill -9`` and a torn last record. One process at a time; use it as ``async with Spool(...)``.

    Space is given back when everything is drained. After a crash in the middle of that all records come again, so
    whoever drains looks each id up in the stream first.
    """

    def __init__(self, path: Path, *, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._fd = -1
        self._start = 0
        self._end = 0
        self._why = "it is not open"
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    @property
    def size(self) -> int:
        """Bytes that are not drained."""
        return self._end - self._start

    def open(self) -> None:
        """Lock the file and cut off a torn last record, of which a copy is kept beside it.

        Raises:
            SpoolUnusable: another process has it, a record before the last is damaged, or the disk refuses.
        """
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._start, self._end = 0, self._whole()
            self._keep_tail(self._end)
            os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)
            _sync_folder(self.path)
        except BlockingIOError as error:
            self.close()
            raise SpoolUnusable(self.path, "another process has it open") from error
        except OSError as error:
            self.close()
            raise SpoolUnusable(self.path, str(error)) from error
        except BaseException:
            self.close()
            raise
        self._why = ""

    def close(self) -> None:
        """Idempotent; what is not drained stays on disk."""
        with self._lock:
            self._why = "it is closed"
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def append(self, messages: Sequence[Outgoing], *, after: int = 0) -> None:
        """Returns once the messages are on this disk, all of them in one record.

        Raises:
            SpoolFull: they do not fit; nothing was written.
            SpoolUnusable: the disk refuses; what was written is cut off, and nothing more is taken.
        """
        record = _encode(messages, after)
        with self._lock:
            if self._why:
                raise SpoolUnusable(self.path, self._why)
            if self._end + len(record) > self.max_bytes:
                raise SpoolFull(self.path, self.max_bytes)
            try:
                _write_all(self._fd, record, self._end)
                os.fsync(self._fd)
            except OSError as error:
                # After a failed fsync nobody knows what the disk has, so the file is not written to again.
                self._why = str(error)
                os.ftruncate(self._fd, self._end)
                raise SpoolUnusable(self.path, str(error)) from error
            self._end += len(record)

    def records(self) -> Iterator[Record]:
        """What is not drained, oldest first."""
        offset = self._start
        while offset < self._end:
            record = self._read(offset)
            if record is None:
                raise SpoolUnusable(self.path, f"the record at {offset} is damaged")
            yield record
            offset = record.end

    def drained(self, end: int) -> None:
        """Everything before offset ``end`` is in the stream.

        Raises:
            SpoolUnusable: it is closed, or the disk refuses.
        """
        with self._lock:
            if self._fd < 0:
                raise SpoolUnusable(self.path, self._why)
            self._start = end
            if self._start == self._end:
                try:
                    os.ftruncate(self._fd, 0)
                    os.fsync(self._fd)
                except OSError as error:
                    self._why = str(error)
                    raise SpoolUnusable(self.path, str(error)) from error
                self._start = self._end = 0

    def _whole(self) -> int:
        size, offset = os.fstat(self._fd).st_size, 0
        while offset < size:
            record = self._read(offset)
            if record is None:
                if not self._is_torn(offset, size):
                    raise SpoolUnusable(self.path, f"the record at {offset} is damaged and others follow it")
                break
            offset = record.end
        return offset

    def _is_torn(self, offset: int, size: int) -> bool:
        """Whether the bad record is the last: it reaches the end of the file, or only zeros are there."""
        head = os.pread(self._fd, _HEAD.size, offset)
        tail = self._tail(offset)
        if len(head) < _HEAD.size or offset + _HEAD.size + _HEAD.unpack(head)[0] >= size:
            # A length that is damaged may reach beyond the end as well.
            return not _has_record(tail)
        return not tail.strip(b"\0")

    def _tail(self, offset: int) -> bytes:
        """All from ``offset`` on."""
        parts = []
        while part := os.pread(self._fd, _PIECE, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _keep_tail(self, offset: int) -> None:
        """Copy what is behind ``offset`` to a file of its own: a damaged last record looks as a torn one does."""
        tail = self._tail(offset)
        if not tail.strip(b"\0"):
            return
        # Named after its content, so that a process that dies here again and again leaves one.
        aside = self.path.with_name(f"{self.path.name}.cut-off-{offset}-{zlib.crc32(tail):08x}")
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, tail, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_folder(aside)
        log.warning(
            "the spool %s ended with %d bytes that are no whole record: most likely its process was killed while it "
            "wrote them, and acknowledged nothing of them; they are cut off, and kept in %s",
            self.path,
            len(tail),
            aside,
        )

    def _read(self, offset: int) -> Record | None:
        head = os.pread(self._fd, _HEAD.size, offset)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        if length > os.fstat(self._fd).st_size - offset - _HEAD.size:
            return None
        body = os.pread(self._fd, length, offset + _HEAD.size)
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            return None
        return _decode(body, offset + _HEAD.size + length)


def _has_record(tail: bytes) -> bool:
    """Whether a whole record begins anywhere behind the first byte."""
    for found in _BODY.finditer(tail, 1 + _BODY_AT):
        length, checksum = _HEAD.unpack_from(tail, found.start() - _BODY_AT)
        begin = found.start() - _META.size
        if length <= len(tail) - begin and zlib.crc32(memoryview(tail)[begin : begin + length]) == checksum:
            return True
    return False


def _encode(messages: Sequence[Outgoing], after: int) -> bytes:
    fields = [[m.subject, m.event_id, dict(m.headers), len(m.payload)] for m in messages]
    meta = json.dumps([after, fields]).encode()
    body = b"".join([_META.pack(len(meta)), meta, *(m.payload for m in messages)])
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _decode(body: bytes, end: int) -> Record:
    at = _META.size + _META.unpack_from(body)[0]
    after, fields = json.loads(body[_META.size : at])
    messages = []
    for subject, event_id, headers, length in fields:
        payload, at = body[at : at + length], at + length
        messages.append(Outgoing(subject=subject, payload=payload, event_id=event_id, headers=headers))
    return Record(messages, after, end)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
