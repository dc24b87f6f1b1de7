"""A recording as one file: a zip of the published bytes and the content they name, which stock tools can look into.

- ``events.pb``: the events in stream order, behind those of the run it was forked from; each has its length before it
  (a varint), as protobuf's own tools write it
- ``events.json``: for each its stream sequence and when the stream stored it
- ``blobs/<SHA-256>``: the content that events name
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO

import orjson

from enchanted.actors.rerun.errors import NotARecording
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.bus.subjects import event_subject
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, parse_event, run_of

_EVENTS, _INDEX, _BLOBS = "events.pb", "events.json", "blobs/"
_ALWAYS = (2000, 1, 1, 0, 0, 0)
"""Time of every member: the same recording gives the same file."""
MAX_BYTES = 1 << 30
"""Of a recording when it is unpacked."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
"""What zipfile raises of bytes that are wrong: RuntimeError where they say that they are encrypted."""


def save(recording: Recording, file: Path | IO[bytes]) -> None:
    """Write a recording; a path is written in place."""
    events = [*recording.parent, *recording.events]
    index = {
        "run_id": recording.run_id,
        "events": [{"seq": stored.seq, "time": stored.time.isoformat()} for stored in events],
    }
    with zipfile.ZipFile(file, "w") as archive:
        _write(archive, _INDEX, orjson.dumps(index))
        _write(archive, _EVENTS, b"".join(_delimited(stored.raw) for stored in events))
        for sha256, content in sorted(recording.blobs.items()):
            _write(archive, _BLOBS + sha256, content)


async def load(file: Path) -> Recording:
    """Read what `save` wrote.

    Raises:
        NotARecording: the file is none, or damaged.
        CannotRerun: see `recording_of`.
    """
    # Opened outside of what follows: a file that is not there is none that is damaged.
    with file.open("rb") as stream:
        try:
            content = _unpacked(file, stream)
            index = orjson.loads(content[_INDEX])
            events = _events(index["events"], list(_split(content[_EVENTS])))
            run_id = str(index["run_id"])
        except (*_DAMAGED, KeyError, TypeError, ValueError, IndexError, NotAnEvent) as error:
            raise NotARecording(file, f"{type(error).__name__}: {error}") from error

    async def read(run: str) -> list[StoredEvent]:
        return [stored for stored in events if run_of(stored.event) == run]

    async def fetch(sha256: str) -> bytes:
        if _BLOBS + sha256 not in content:
            raise NotARecording(file, f"the content {sha256[:80]} is missing")
        return content[_BLOBS + sha256]

    return await recording_of(run_id, read, fetch)


def _unpacked(file: Path, stream: IO[bytes]) -> dict[str, bytes]:
    with zipfile.ZipFile(stream) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
            raise NotARecording(file, f"it has more than {MAX_BYTES >> 20} MiB")
        return {name: archive.read(name) for name in archive.namelist()}


def _events(index: Sequence[dict[str, object]], payloads: Sequence[bytes]) -> list[StoredEvent]:
    found = []
    for place, raw in zip(index, payloads, strict=True):
        event = parse_event(raw)
        time = datetime.fromisoformat(str(place["time"]))
        seq = int(str(place["seq"]))
        found.append(StoredEvent(seq=seq, time=time, subject=event_subject(event), raw=raw, event=event))
    return found


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, date_time=_ALWAYS)
    archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)


def _delimited(raw: bytes) -> bytes:
    size, head = len(raw), bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + raw


def _split(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        size = shift = 0
        while data[place] & 0x80:
            size |= (data[place] & 0x7F) << shift
            place, shift = place + 1, shift + 7
        size |= data[place] << shift
        place += 1
        if place + size > len(data):
            raise ValueError("it was cut short")
        yield data[place : place + size]
        place += size
