"""A recording into a bus: the same bytes under the same ids, so that the run can be looked at as where it was made."""

from __future__ import annotations

from collections.abc import Iterable

from enchanted.actors.rerun.errors import CannotImport, HeldElsewhere
from enchanted.actors.rerun.recording import Recording
from enchanted.bus.batch import Outgoing
from enchanted.bus.ports import BusPort
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent


async def import_recording(recording: Recording, bus: BusPort) -> int:
    """Publish what the bus does not have of a recorded run yet; how many events that were.

    Sequences and the stream's times are new; what the events say of themselves, times included, is as recorded.
    Cut off, it is finished by the next call. What the bus has beyond the recording, an undo say, stays.

    Raises:
        CannotImport: the bus has another run of this name or its events under another name, the recording does not
            verify, or the run tells of sequences, as a fork does.
        BusError: whatever publishing raises.
    """
    run_id = recording.run_id
    if recording.request.forked_from:
        why = f"it is a fork of {recording.request.forked_from}, whose sequences would be other ones"
        raise CannotImport(run_id, why, "import a recording of the run it was forked from")
    # A late copy of an event is no second event.
    events = {stored.raw: stored for stored in recording.events}
    _require_sound(run_id, events.values())
    told, known = list(events), await _known(bus, run_id)
    if known[: len(told)] != told[: len(known)]:
        raise CannotImport(run_id, "the bus has a run of this name with other events", "import it into another home")
    for content in recording.blobs.values():
        await bus.blobs.put(content)
    missing = told[len(known) :]
    await bus.publisher.publish_many([_outgoing(events[raw]) for raw in missing])
    # The stream takes an id once, whatever run it is of.
    if missing and (lost := len(told) - len(await _known(bus, run_id))) > 0:
        raise HeldElsewhere(run_id, f"{lost} of its events")
    return len(missing)


def _require_sound(run_id: str, events: Iterable[StoredEvent]) -> None:
    verdict = verify(events, run=run_id)
    if fault := verdict.first_bad or next(iter(verdict.missing), None):
        why = f"its log does not verify (agent {fault.agent_id[:64]}, agent_seq {fault.agent_seq}: {fault.why[:200]})"
        remedy = "import a recording as `enchanted rerun RUN --record FILE` wrote it"
        raise CannotImport(run_id, why, remedy)


async def _known(bus: BusPort, run_id: str) -> list[bytes]:
    """What the bus has of the run, each event once."""
    return list(dict.fromkeys(stored.raw for stored in await bus.read_run(run_id)))


def _outgoing(stored: StoredEvent) -> Outgoing:
    return Outgoing(subject=stored.subject, payload=stored.raw, event_id=stored.event.event_id)
