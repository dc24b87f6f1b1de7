"""`enchanted import` and `enchanted demo --recorded`: a recorded run, to be looked at without a model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption
from enchanted.cluster.errors import CHECK_FAILED, UNREACHABLE, USAGE, CommandFailed

if TYPE_CHECKING:
    from enchanted.actors.rerun.recording import Recording
    from enchanted.serve.client import ApiClient

RECORDED = Path(__file__).parents[1] / "demo" / "recorded.zip"
ASKED = 500
"""Events whose ids are looked up at a time."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("import")(import_)


def import_(
    recording: Annotated[Path, typer.Argument(help="File that `enchanted rerun RUN --record FILE` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Put a recorded run into this home's log, byte for byte, to look at it; nothing is executed."""
    take_in(recording, as_json=as_json)


def take_in(file: Path, *, as_json: bool) -> None:
    """Import a recording into the services, which are started if need be, and say where it can be seen."""
    from enchanted.cluster import services  # these pull in the bus and asyncio servers
    from enchanted.serve.client import ApiClient

    recording = _loaded(file)
    run_id = recording.run_id
    endpoints = asyncio.run(services.up(console.settings(), console.say))
    with ApiClient(endpoints.api_url, endpoints.token_file.read_text().strip()) as client:
        _require_free(recording, client)
        added = _import(recording, endpoints.nats_url)
        if not client.wait_closed(run_id):
            remedy = "`enchanted status` shows the services; the run is in the log and will be found later"
            raise CommandFailed(f"{run_id} is imported, and not in the table yet", remedy, CHECK_FAILED)
        run, link = client.run(run_id), client.page(run_id)
    console.say(f"{added} events imported" if added else "the run was there already")
    if as_json:
        console.emit_json({"run_id": run_id, "imported": added, "events": run["events"], "url": link})
    else:
        console.emit(f"{run_id} {run['state']}, {link}")


def _loaded(file: Path) -> Recording:
    from enchanted.actors.errors import ActorError
    from enchanted.actors.rerun.file import load

    try:
        return asyncio.run(load(file))
    except ActorError as error:
        raise _refused(error, USAGE) from error
    except OSError as error:
        remedy = "give the path of a recording"
        raise CommandFailed(f"{file} cannot be read: {error.strerror}", remedy, USAGE) from error


def _require_free(recording: Recording, client: ApiClient) -> None:
    """Ask before anything is written, since the log takes an id once and the run would be there in part.

    Raises:
        CommandFailed: the log has an event of the recording under another run.
    """
    from enchanted.actors.rerun.errors import HeldElsewhere

    run_id = recording.run_id
    ids = [_literal(stored.event.event_id) for stored in recording.events]
    for first in range(0, len(ids), ASKED):
        # In square brackets: a call alone in round ones is no set but what follows IN, which the guard refuses.
        held = f"event_id IN [{', '.join(ids[first : first + ASKED])}] AND duplicate_of = 0"
        query = f"SELECT event_id, run FROM events WHERE {held} AND run != {_literal(run_id)}"
        for event_id, other in client.sql(query, limit=1)["rows"]:
            raise _refused(HeldElsewhere(run_id, f"its event {event_id[:64]} (of {other[:64] or 'none'})"), USAGE)


def _literal(text: str) -> str:
    """Any text in SQL; a recording may say anything."""
    return f"unhex('{text.encode().hex()}')"


def _import(recording: Recording, nats_url: str) -> int:
    from enchanted.actors.rerun.errors import CannotImport
    from enchanted.actors.rerun.importing import import_recording
    from enchanted.bus.connection import Bus
    from enchanted.bus.errors import BusError

    async def publish() -> int:
        async with Bus.connect(nats_url, name="enchanted-import") as bus:
            return await import_recording(recording, bus)

    try:
        return asyncio.run(publish())
    except CannotImport as error:
        raise _refused(error, USAGE) from error
    except BusError as error:
        raise _refused(error, UNREACHABLE) from error


def _refused(error: Exception, exit_code: int) -> CommandFailed:
    cause, _, remedy = str(error).partition("; ")
    return CommandFailed(cause, remedy, exit_code)
