"""A recording into a bus: the same bytes under the same ids, so that the run can be looked at as where it was made."""

from __future__ import annotations

from enchanted.actors.rerun.errors import CannotImport
from enchanted.actors.rerun.recording import Recording
from enchanted.bus.batch import Outgoing
from enchanted.bus.ports import BusPort
from enchanted.schemas.events import StoredEvent


async def import_recording(recording: Recording, bus: BusPort) -> int:
    """Publish what the bus does not have of a recorded run yet; how many events that were.

    Sequences and the stream's times are new; what the events say of themselves, times included, is as recorded.
    Cut off, it is finished by the next call.

    Raises:
        CannotImport: the bus has another run of this name, or the run tells of sequences, as a fork does.
        BusError: whatever publishing raises.
    """
    run_id = recording.run_id
    if recording.request.forked_from:
        why = f"it is a fork of {recording.request.forked_from}, whose sequences would be other ones"
        raise CannotImport(run_id, why, "import a recording of the run it was forked from")
    known = [stored.raw for stored in await bus.read_run(run_id)]
    if known != [stored.raw for stored in recording.events[: len(known)]]:
        raise CannotImport(run_id, "the bus has a run of this name with other events", "import it into another home")
    for content in recording.blobs.values():
        await bus.blobs.put(content)
    missing = recording.events[len(known) :]
    await bus.publisher.publish_many([_outgoing(stored) for stored in missing])
    return len(missing)


def _outgoing(stored: StoredEvent) -> Outgoing:
    return Outgoing(subject=stored.subject, payload=stored.raw, event_id=stored.event.event_id)
