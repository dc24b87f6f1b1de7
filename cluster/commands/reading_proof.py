"""`enchanted verify`: the proof over a run, and receipts of it that are kept elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, plain
from enchanted.cluster.errors import CHECK_FAILED, USAGE, CommandFailed
from enchanted.cluster.whole_file import written
from enchanted.serve.client_errors import ApiBusy

if TYPE_CHECKING:
    from enchanted.schemas.receipt import Receipt
    from enchanted.serve.client import ApiClient

NAMED = 20
"""Differences that are named."""
TURNS = 20
"""Times that a piece is asked for again while other checks have the places, half a minute each."""

ExportOption = Annotated[
    Path | None,
    typer.Option("--export", help="Write a receipt of the run there, if it verifies.", show_default=False),
]
AgainstOption = Annotated[
    Path | None, typer.Option("--against", help="Hold the run against this receipt too.", show_default=False)
]


DeepOption = Annotated[
    bool, typer.Option("--deep", help="Lay each patch onto the tree it begins at, too; takes minutes in a long run.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("verify")(verify)


def verify(
    run: RunArgument,
    export: ExportOption = None,
    against: AgainstOption = None,
    deep: DeepOption = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Check that no event of a run is altered (intact) or missing (complete); exit 1 when one is."""
    kept = None if against is None else _read(against, run)
    with api(url, token_file) as client:
        document = client.verify(run)
        if kept is not None:
            _compare(document, kept, client.receipt(run, until=kept.last_seq))
        if deep:
            _hold_patches(client, document)
        sound = document["intact"] and document["complete"] and (not deep or document["patches"]["intact"] is True)
        receipt = client.receipt(run, until=document["last_seq"]) if export is not None and sound else None
    if as_json:
        console.emit_json(document)
    else:
        console.emit(_verdict(document))
    _explain(document)
    if export is not None:
        _write(export, receipt)
    if not sound:
        raise typer.Exit(CHECK_FAILED)


def _read(path: Path, run: str) -> Receipt:
    from enchanted.schemas.errors import BadReceipt  # protobuf costs a tenth of a second of every `--help`
    from enchanted.schemas.receipt import parse_receipt

    try:
        kept = parse_receipt(path.read_bytes())
    except OSError as error:
        raise CommandFailed(
            f"the receipt {path} cannot be read: {error.strerror}", "name a file that `--export` wrote", USAGE
        ) from error
    if kept.run_id != run:
        raise BadReceipt(f"it is of run {kept.run_id[:80]!r}, not of {run!r}")
    return kept


def _compare(document: dict[str, Any], kept: Receipt, found: Document) -> None:
    from enchanted.schemas.receipt import compare, parse_receipt

    now = parse_receipt(json.dumps(found).encode())
    comparison = compare(kept, now)
    document["intact"] = document["intact"] and comparison.intact
    document["complete"] = document["complete"] and comparison.complete
    named = [asdict(fault) for fault in comparison.faults]
    document["first_bad"] = document["first_bad"] or next(iter(named), None)
    document["receipt"] = {
        "made_at": kept.made_at,
        "events": len(kept.entries),
        "later_events": max(0, document["checked"] - len(now.entries)),
        "same_stream": kept.stream_created in ("", now.stream_created),
        "intact": comparison.intact,
        "complete": comparison.complete,
        "differences": named,
    }


def _hold_patches(client: ApiClient, document: dict[str, Any]) -> None:
    """Piece by piece, since a long run takes minutes."""
    whole: Document = {"changes": 0, "skipped": 0, "seconds": 0.0, "until": 0}
    while True:
        found = _piece(client, document["run_id"], whole["until"])
        sums = {name: whole[name] + found[name] for name in ("changes", "skipped", "seconds")}
        whole = {**found, **sums}
        if found["whole"] or found["why"] or found["first_bad"]:
            break
        console.say(f"{whole['changes']} patches hold, up to sequence {whole['until']} of {document['last_seq']}")
    if whole["skipped"] and whole["intact"]:
        whole["intact"] = None
    document["patches"] = whole
    document["intact"] = document["intact"] and whole["intact"] is not False
    document["first_bad"] = document["first_bad"] or whole["first_bad"]


def _piece(client: ApiClient, run: str, after: int) -> Document:
    """The next of them; what those before have taken is not lost because others check too."""
    for _ in range(TURNS):
        try:
            return client.verify_patches(run, after=after)
        except ApiBusy as busy:
            console.say(f"other checks are under way; asking again in {busy.seconds:g} s")
            time.sleep(busy.seconds)
    return client.verify_patches(run, after=after)


def _write(path: Path, receipt: Document | None) -> None:
    if receipt is None:
        console.say("no receipt is written: it would vouch for a run that does not verify")
        return
    with written(path, new=True) as file:
        file.write((json.dumps(receipt, ensure_ascii=False, separators=(",", ":")) + "\n").encode())
    console.say(f"receipt of {len(receipt['events'])} events: {path}; keep it where the log's operator cannot write")


def _verdict(document: Document) -> str:
    intact = "intact" if document["intact"] else "NOT INTACT"
    complete = "complete" if document["complete"] else "NOT COMPLETE"
    checked = f"{document['run_id']}: {intact}, {complete}, {document['checked']} events checked"
    return checked + (_verdict_of_patches(document["patches"]) if "patches" in document else "")


def _verdict_of_patches(patches: Document) -> str:
    if patches["intact"] is None:
        return ", PATCHES NOT CHECKED"
    if patches["intact"]:
        return f", {patches['changes']} patches lead to the trees they name"
    return f", A PATCH IS FALSE after {patches['changes']} that hold"


def _explain(document: Document) -> None:
    if bad := document["first_bad"]:
        console.say(f"first bad: {_place(bad)}")
    for fault in document["missing"]:
        console.say(f"agent {plain(fault['agent_id'])}: {plain(fault['why'])}")
    stream = document["stream"]
    for name in ("only_in_stream", "only_in_table", "differing"):
        if stream[name]:
            console.say(f"{name.replace('_', ' ')}: {', '.join(map(str, stream[name]))}")
    if not stream["checked"]:
        console.say(f"not compared with the stream: {stream['why']}")
    if not document["closed"]:
        console.say("the run is open: its tail is not anchored yet")
    elif document["unanchored"]:
        console.say(f"events after the close: {document['unanchored']}; nothing but a receipt vouches for them")
    if "patches" in document:
        _explain_patches(document["patches"])
    if "receipt" in document:
        _explain_receipt(document["receipt"])


def _explain_patches(patches: Document) -> None:
    if patches["first_bad"]:
        console.say(f"first false patch: {_place(patches['first_bad'])}; what comes after it was not looked at")
    if patches["why"]:
        console.say(f"patches not checked beyond sequence {patches['until']}: {plain(patches['why'])}")
    if patches["skipped"]:
        console.say(f"{patches['skipped']} changes are by producers without a chain and begin at no tree of the run")


def _explain_receipt(receipt: Document) -> None:
    if not receipt["same_stream"]:
        console.say("the receipt was made on another stream than the bus has now")
    for fault in receipt["differences"][:NAMED]:
        console.say(f"not as in the receipt: {_place(fault)}")
    more = len(receipt["differences"]) - NAMED
    if more > 0:
        console.say(f"and {more} more: --json names them all")
    if not receipt["differences"]:
        console.say(f"as in the receipt of {plain(receipt['made_at'])}: {receipt['events']} events")
    if receipt["later_events"]:
        console.say(f"{receipt['later_events']} events are younger than the receipt")


def _place(fault: Document) -> str:
    agent = f"agent {plain(fault['agent_id'])}, agent_seq {fault['agent_seq']}"
    return f"sequence {fault['seq']}, {agent}: {plain(fault['why'])}"
