"""Content by its SHA-256, in a JetStream object store that any NATS client can read."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import BlobCorrupt, BlobMissing
from enchanted.bus.link import Link
from enchanted.bus.ordered import read_all
from enchanted.bus.publisher import Publisher
from enchanted.bus.reader import RawMessage, message_at
from enchanted.bus.streams import BLOB_BUCKET, BLOB_STREAM

CHUNK = 128 * 1024
"""Bytes; what the object stores of other clients use."""


class BlobStore:
    """Puts are idempotent, and two of the same content at once are safe: each writes its own chunks, one entry wins."""

    def __init__(
        self, link: Link, publisher: Publisher, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._now = now

    async def put(self, data: bytes) -> str:
        """Store content; returns its SHA-256 (64 hex digits). Content that is there already is not sent again.

        Raises:
            PublishRefused, PublishOutcomeUnknown: as Publisher.publish.
        """
        digest = hashlib.sha256(data)
        name = digest.hexdigest()
        entry = await self._entry(name)
        if entry is not None and entry.size == len(data) and await self._is_complete(entry):
            return name
        chunk_id = secrets.token_hex(11)
        chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        await self._publisher.publish_many(
            [
                Outgoing(subject=_chunk_subject(chunk_id), payload=chunk, event_id=f"{chunk_id}-{number}")
                for number, chunk in enumerate(chunks)
            ]
        )
        info = {
            "name": name,
            "bucket": BLOB_BUCKET,
            "nuid": chunk_id,
            "size": len(data),
            "chunks": len(chunks),
            "digest": "SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode(),
            "mtime": self._now().isoformat(),
            "options": {"max_chunk_size": CHUNK},
        }
        await self._publisher.publish(
            Outgoing(
                subject=_entry_subject(name),
                payload=json.dumps(info).encode(),
                event_id=f"{chunk_id}-entry",
                headers={"Nats-Rollup": "sub"},
            )
        )
        return name

    async def has(self, sha256: str) -> bool:
        """Whether the content with this hash is there, as far as can be told without reading all of it."""
        entry = await self._entry(sha256)
        return entry is not None and await self._is_complete(entry)

    async def get(self, sha256: str) -> bytes:
        """The content with this hash.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: what is stored has another hash.
        """
        entry = await self._entry(sha256)
        if entry is None:
            raise BlobMissing(sha256)
        chunks = await read_all(self._link, BLOB_STREAM, [_chunk_subject(entry.chunk_id)]) if entry.chunks else []
        data = b"".join(chunk.payload for chunk in chunks)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise BlobCorrupt(sha256, found)
        return data

    async def _entry(self, name: str) -> _Entry | None:
        message = await message_at(self._link, BLOB_STREAM, {"last_by_subj": _entry_subject(name)})
        return None if message is None else _Entry(message)

    async def _is_complete(self, entry: _Entry) -> bool:
        """Whether the chunks an entry names are there: as many as it says, the last one readable."""
        if not entry.chunks:
            return True
        last = await message_at(self._link, BLOB_STREAM, {"last_by_subj": _chunk_subject(entry.chunk_id)})
        return last is not None and last.headers.get("Nats-Msg-Id") == f"{entry.chunk_id}-{entry.chunks - 1}"


class _Entry:
    """The part of an object's metadata we use."""

    def __init__(self, message: RawMessage) -> None:
        info = json.loads(message.payload)
        self.chunk_id: str = info["nuid"]
        self.size: int = info["size"]
        self.chunks: int = info["chunks"]


def _chunk_subject(chunk_id: str) -> str:
    return f"$O.{BLOB_BUCKET}.C.{chunk_id}"


def _entry_subject(name: str) -> str:
    return f"$O.{BLOB_BUCKET}.M." + base64.urlsafe_b64encode(name.encode()).decode()
