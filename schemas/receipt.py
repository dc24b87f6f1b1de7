"""A receipt of a run: what its events were at one moment, to be kept elsewhere and held against the run later. Pure.

Chains prove that nobody altered one event. Whoever writes a chain anew, or cuts the end off a run that is not closed,
leaves no trace in it; a receipt shows it: it names every event in stream order with its hash, each agent's head, and
one hash over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from enchanted.schemas.canonical import canonical_json, sha256_hex
from enchanted.schemas.errors import BadReceipt
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.links import Fault

VERSION = 1
SHORT = 16
"""Hex digits of an event's hash in the list of events; the hash over all of them takes each in full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One event of a receipt."""

    seq: int
    agent_id: str
    agent_seq: int
    """0 for producers without chains."""
    hash: str
    """The first digits of the SHA-256 of the published bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What a run was."""

    run_id: str
    made_at: str
    """RFC 3339."""
    stream_created: str
    """Which stream the sequences are of; empty where the bus did not answer."""
    last_seq: int
    digest: str
    """SHA-256 over sequence and full hash of every event, in stream order."""
    closing_hash: str
    """Of the event that closed the run; empty while it is open."""
    heads: Mapping[str, tuple[int, str]]
    """agent_id -> count of its events and full hash of the last."""
    entries: tuple[Entry, ...]

    def document(self) -> dict[str, Any]:
        """As it is written down."""
        agents = list(self.heads)
        place = {agent_id: number for number, agent_id in enumerate(agents)}
        body = {
            "format": VERSION,
            "run_id": self.run_id,
            "made_at": self.made_at,
            "stream_created": self.stream_created,
            "last_seq": self.last_seq,
            "digest": self.digest,
            "closing_hash": self.closing_hash,
            "agents": [{"agent_id": a, "events": self.heads[a][0], "head": self.heads[a][1]} for a in agents],
            "events": [[entry.seq, place[entry.agent_id], entry.agent_seq, entry.hash] for entry in self.entries],
        }
        return {**body, "checksum": sha256_hex(canonical_json(body))}


class ReceiptMaker:
    """Feed it a run's events in stream order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._entries: list[Entry] = []
        self._heads: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._closing = ""

    def add(self, stored: StoredEvent, digest: str) -> None:
        """One event and the SHA-256 of its bytes."""
        event = stored.event
        self._lines.append(f"{stored.seq}:{digest}\n")
        entry = Entry(seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq, hash=digest[:SHORT])
        self._entries.append(entry)
        self._heads[event.agent_id] = digest
        self._counts[event.agent_id] += 1
        if event.run_transition.heads and not self._closing:
            self._closing = digest

    def receipt(self, run: str, *, made_at: datetime, stream_created: str) -> Receipt:
        """The receipt of everything added so far."""
        return Receipt(
            run_id=run,
            made_at=made_at.isoformat(),
            stream_created=stream_created,
            last_seq=self._entries[-1].seq if self._entries else 0,
            digest=sha256_hex("".join(self._lines)),
            closing_hash=self._closing,
            heads={agent_id: (self._counts[agent_id], head) for agent_id, head in sorted(self._heads.items())},
            entries=tuple(self._entries),
        )


def parse_receipt(data: bytes) -> Receipt:
    """Read one back.

    Raises:
        BadReceipt: the bytes are no receipt, of another format, cut short or altered.
    """
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadReceipt("it is not JSON: cut short, or another file") from error
    if not isinstance(body, dict) or "checksum" not in body or "format" not in body:
        raise BadReceipt("it is JSON, and no receipt")
    checksum = body.pop("checksum")
    try:
        content = canonical_json(body)
    except TypeError as error:
        raise BadReceipt("it is JSON nested deeper than a receipt, and no receipt") from error
    if body["format"] != VERSION:
        raise BadReceipt(f"its format is {str(body['format'])[:20]!r}, this version reads {VERSION}")
    if checksum != sha256_hex(content):
        raise BadReceipt("its checksum does not fit its content: it was altered or damaged")
    try:
        agents = [agent["agent_id"] for agent in body["agents"]]
        return Receipt(
            run_id=body["run_id"],
            made_at=body["made_at"],
            stream_created=body["stream_created"],
            last_seq=int(body["last_seq"]),
            digest=body["digest"],
            closing_hash=body["closing_hash"],
            heads={agent["agent_id"]: (int(agent["events"]), agent["head"]) for agent in body["agents"]},
            entries=tuple(_entry(agents, *line) for line in body["events"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadReceipt(f"it lacks what a receipt has: {error}") from error


def _entry(agents: Sequence[str], seq: int, agent: int, agent_seq: int, digest: str) -> Entry:
    return Entry(seq=int(seq), agent_id=agents[agent], agent_seq=int(agent_seq), hash=str(digest))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What became of the events a receipt names."""

    intact: bool
    """None is altered or moved, and no other stands among them."""
    complete: bool
    """None is missing."""
    faults: tuple[Fault, ...]
    """In stream order."""


def compare(kept: Receipt, found: Receipt) -> Comparison:
    """Hold a receipt against the run's own up to ``kept.last_seq``, made now.

    Raises:
        BadReceipt: they are of two runs.
    """
    if kept.run_id != found.run_id:
        raise BadReceipt(f"it is of run {kept.run_id[:80]!r}, not of {found.run_id[:80]!r}")
    old = {entry.seq: entry for entry in kept.entries}
    new = {entry.seq: entry for entry in found.entries}
    missing = [_where(entry, "missing: the receipt names it") for seq, entry in old.items() if seq not in new]
    bad = [fault for entry in new.values() if (fault := _changed(old.get(entry.seq), entry)) is not None]
    if not bad and not missing and (kept.digest, dict(kept.heads)) != (found.digest, dict(found.heads)):
        bad = [_where(entry, "the hash over all events up to here differs") for entry in found.entries[-1:]]
    faults = tuple(sorted([*missing, *bad], key=lambda fault: fault.seq))
    return Comparison(intact=not bad, complete=not missing, faults=faults)


def _changed(old: Entry | None, new: Entry) -> Fault | None:
    if old is None:
        return _where(new, "inserted: the receipt has no event at this sequence")
    if old == new:
        return None
    if (old.agent_id, old.agent_seq) == (new.agent_id, new.agent_seq):
        return _where(old, f"altered: its hash began with {old.hash}, it begins with {new.hash}")
    return _where(old, f"replaced: agent_seq {new.agent_seq} of agent {new.agent_id[:64]} is here")


def _where(entry: Entry, why: str) -> Fault:
    return Fault(seq=entry.seq, agent_id=entry.agent_id, agent_seq=entry.agent_seq, why=why)


def made_of(events: Iterable[tuple[StoredEvent, str]], run: str, *, made_at: datetime, stream_created: str) -> Receipt:
    """The receipt of events in stream order, each with the SHA-256 of its bytes."""
    maker = ReceiptMaker()
    for stored, digest in events:
        maker.add(stored, digest)
    return maker.receipt(run, made_at=made_at, stream_created=stream_created)
