"""`enchanted rerun`: a run again from its log, compared event by event."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, event_row, one_line, plain
from enchanted.cluster.errors import CHECK_FAILED, NOT_FOUND, USAGE, CommandFailed
from enchanted.cluster.whole_file import written

if TYPE_CHECKING:
    from enchanted.actors.rerun.recording import Recording

StartOption = Annotated[
    int, typer.Option("--from", min=0, help="Begin at or before this sequence, where no agent is at work.")
]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Write the run's events and their content to this file instead.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("rerun")(rerun)


def rerun(
    run: RunArgument,
    start: StartOption = 0,
    record: RecordOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Run the swarm's code again with recorded answers of models and tools; exit 1 where it says something else."""
    if record is not None:
        if url is not None:
            raise CommandFailed("--record reads this home's bus", "leave --url away", USAGE)
        _record(run, record, as_json=as_json)
        return
    with api(url, token_file) as client:
        document = client.rerun(run, start=start)
    if as_json:
        console.emit_json(document)
    else:
        console.emit(_verdict(document))
        _explain(document)
    if not document["equal"]:
        raise typer.Exit(CHECK_FAILED)


def _verdict(document: Document) -> str:
    times = f"live {document['live_seconds']:.1f} s, rerun {document['rerun_seconds']:.2f} s"
    counts = f"{document['compared']} of {document['recorded']} events, {document['times_faster']:.0f} times faster"
    begun = f" after sequence {document['after']}" if document["after"] else ""
    return f"{document['run_id']}: {'equal' if document['equal'] else 'DIFFERENT'}{begun}, {counts} ({times})"


def _explain(document: Document) -> None:
    found = document["divergence"]
    if found is None:
        return
    console.say(f"first divergence: {plain(found['agent'])}: {one_line(found['why'], 400)}")
    for label, said in (("recorded", found["recorded"]), ("new", found["new"])):
        console.say(f"{label}: {'nothing' if said is None else _said(said)}")
    for one in found["differences"]:
        console.say(f"{plain(one['field'])}: {one_line(one['recorded'], 300)} | {one_line(one['new'], 300)}")


def _said(said: Document) -> str:
    seq = said.get("seq", "")
    _, _, agent, kind, what = event_row({"seq": seq, "kind": said["kind"], **said["event"]})
    event_id = f" event {plain(said['event']['event_id'])}" if seq else ""
    return f"{f'sequence {seq}' if seq else ''}{event_id} {agent} {kind} {what}".strip()


def _record(run: str, target: Path, *, as_json: bool) -> None:
    from enchanted.actors.errors import ActorError  # these pull in the bus
    from enchanted.actors.rerun import file
    from enchanted.cluster import services

    home = services.home_of(console.settings())
    endpoints = services.endpoints_in_cluster() or services.read_endpoints(home.path)
    try:
        recording = asyncio.run(_read(run, endpoints.nats_url))
    except ActorError as error:
        cause, _, remedy = str(error).partition("; ")
        raise CommandFailed(cause, remedy, USAGE) from error
    # A zip asks its file where it is, which a device does not know.
    packed = io.BytesIO()
    file.save(recording, packed)
    with written(target) as stream:
        stream.write(packed.getbuffer())
    if as_json:
        counts = {"events": len(recording.events), "contents": len(recording.blobs)}
        console.emit_json({"run_id": run, "file": str(target), **counts})
        return
    console.say(f"{len(recording.events)} events and {len(recording.blobs)} contents of {run} are in {target}")
    console.say(f"run it again anywhere: python -m enchanted.actors.rerun {target}")


async def _read(run: str, nats_url: str) -> Recording:
    from enchanted.actors.rerun.recording import recording_of
    from enchanted.bus.connection import Bus

    async with Bus.connect(nats_url, name="enchanted-rerun") as bus:
        if not await bus.read_run(run):
            raise CommandFailed(f"the bus holds no event of run {run!r}", "`enchanted runs` lists the runs", NOT_FOUND)
        return await recording_of(run, bus.read_run, bus.blobs.get)
