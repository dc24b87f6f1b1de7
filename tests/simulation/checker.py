"""Whether the promises hold once faults have stopped."""

from __future__ import annotations

from collections import Counter, defaultdict

from enchanted.bus.reader import RawMessage, as_event
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.ingest.worker import DURABLE
from enchanted.schemas.chain import verify
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import parse_event
from tests.simulation.ledger import Attempt, key_of
from tests.simulation.stream import Message
from tests.simulation.world import Broken, World


def unsettled(world: World, began: float) -> str:
    """What is not done yet; empty when everything is. ``began``: when the faults stopped."""
    server, table = world.server, world.table
    busy = [name for name in ("producer", "feeder") if name in world.processes and name not in world.finished]
    if busy:
        return f"{busy} have not ended"
    if not server.up:
        return "the server is down"
    consumer = server.consumers.get((EVENTS_STREAM, DURABLE))
    if consumer is None:
        return "there is no consumer"
    info = consumer.info()
    if info["num_pending"] or info["num_ack_pending"]:
        return f"{info['num_pending']} messages wait, {info['num_ack_pending']} are not acknowledged"
    if table.busy:
        return "an insert is under way"
    missing = [seq for seq in _expected_rows(world) if seq not in table.rows]
    if missing:
        return f"rows {missing} are missing"
    twice = [event_id for event_id, shown in table.visible.items() if len(shown) > 1]
    if world.parts.copies_among_workers and twice:
        return f"events {twice} are visible twice"
    if not world.reports or world.reports[-1][0] < began or not world.reports[-1][1].sound:
        return f"the reconciler is not content: {world.reports[-1:]}"
    return ""


def check(world: World) -> None:
    """Every promise.

    Raises:
        Broken: the first that does not hold.
    """
    messages = world.server.events.messages[: world.server.events.visible]
    _check_publishes(world, messages)
    _check_order(world, messages)
    _check_chains(messages)
    _check_letters(world, messages)
    _check_rows(world, messages)


def _expected_rows(world: World) -> list[int]:
    stream = world.server.events
    return [message.seq for message in stream.messages[: stream.visible] if not world.is_poison(message)]


def _check_publishes(world: World, messages: list[Message]) -> None:
    forgotten = world.ledger.forgotten
    found: dict[int, Message] = {}
    for message in messages:
        if key_of(message) in found and key_of(message) not in forgotten:
            raise Broken(f"message {key_of(message)} is in the stream twice")
        found[key_of(message)] = message
    ids = Counter(message.msg_id for message in messages if key_of(message) not in forgotten)
    again = [msg_id for msg_id, times in ids.items() if msg_id and times > 1]
    if again:
        raise Broken(f"message ids {again} are in the stream more than once")
    told: dict[int, set[str]] = defaultdict(set)
    for attempt in world.ledger.attempts:
        for key in attempt.keys:
            told[key].add(attempt.outcome)
        if attempt.outcome == "ok":
            _check_acknowledged(attempt, found, forgotten)
    wrong = [key for key, outcomes in told.items() if outcomes == {"failed"} and key in found]
    if wrong:
        raise Broken(f"messages {wrong} were refused and are in the stream")


def _check_acknowledged(attempt: Attempt, found: dict[int, Message], forgotten: set[int]) -> None:
    for key, (seq, raw) in zip(attempt.keys, attempt.stored, strict=True):
        if key not in found:
            raise Broken(f"message {key} was acknowledged and is not in the stream")
        if found[key].payload != raw or (seq and found[key].seq != seq and key not in forgotten):
            raise Broken(f"message {key} is not what was acknowledged as {seq}: {found[key].seq}")


def _check_order(world: World, messages: list[Message]) -> None:
    place = {key_of(message): message.seq for message in messages}
    last: dict[str, int] = {}
    done: set[int] = set()
    for attempt in world.ledger.attempts:
        if attempt.outcome != "ok" or not attempt.ordered:
            continue
        for key in attempt.keys:
            if key in done or key in world.ledger.forgotten:
                continue
            done.add(key)
            if place[key] <= last.get(attempt.writer, 0):
                raise Broken(f"message {key} of {attempt.writer} is out of order")
            last[attempt.writer] = place[key]


def _check_chains(messages: list[Message]) -> None:
    raws = [RawMessage(seq=m.seq, time=m.time, subject=m.subject, payload=m.payload, headers={}) for m in messages]
    verdict = verify(event for event in map(as_event, raws) if event is not None)
    if not verdict.intact or not verdict.complete:
        raise Broken(f"a chain is broken: {verdict.first_bad} {verdict.missing}")


def _check_letters(world: World, messages: list[Message]) -> None:
    letters = world.letters()
    poison = {message.seq: message for message in messages if world.is_poison(message)}
    if letters.keys() != poison.keys():
        raise Broken(f"dead letters {sorted(letters)}, poison {sorted(poison)}")
    for seq, letter in letters.items():
        if letter.payload != poison[seq].payload:
            raise Broken(f"dead letter {seq} has other bytes")


def _check_rows(world: World, messages: list[Message]) -> None:
    rows = world.table.rows
    by_id: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        if world.is_poison(message):
            continue
        if message.seq not in rows or rows[message.seq].raw != message.payload:
            raise Broken(f"row {message.seq} is missing or has other bytes")
        event_id = _event_id(message)
        if event_id:
            by_id[event_id].append(message)
        elif rows[message.seq].duplicate_of:
            raise Broken(f"row {message.seq} has no event id and counts as a copy")
    if len(rows) != sum(not world.is_poison(message) for message in messages):
        raise Broken(f"rows of no message: {sorted(set(rows) - {message.seq for message in messages})}")
    for event_id, copies in by_id.items():
        visible = [message.seq for message in copies if rows[message.seq].duplicate_of == 0]
        wanted = [min(message.seq for message in copies)]
        if visible != wanted and not (visible and event_id in world.table.damaged):
            raise Broken(f"event {event_id}, messages {[m.seq for m in copies]}: visible are {visible}")
    excused = world.table.late | world.table.overtaken | world.lost
    twice = [seq for seq, times in world.table.copies.items() if times > 1 and seq not in excused]
    # Two workers may be given the same messages at the same time; copies of a row collapse.
    if twice and "ingest-1" not in world.processes:
        raise Broken(f"rows {twice} were inserted again though nothing was late")


def _event_id(message: Message) -> str:
    try:
        return parse_event(message.payload).event_id
    except NotAnEvent:
        return ""
