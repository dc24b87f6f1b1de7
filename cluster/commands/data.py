"""`reconcile` and `dead-letters`: whether every message is where it should be, and those that could not be used."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.data_damage import scrub_rows
from enchanted.cluster.commands.reading_text import one_line
from enchanted.cluster.errors import CHECK_FAILED, NOT_FOUND, CommandFailed

if TYPE_CHECKING:
    from enchanted.bus.dead_letters import DeadLetter
    from enchanted.cluster.commands.data_replay import Replayed
    from enchanted.cluster.state import Endpoints
    from enchanted.ingest.reconcile_report import Report

LETTER_COLUMNS = ("letter", "time", "reason", "message", "subject", "bytes", "detail")

SCRUB_SECONDS = 10.0
"""What `reconcile` without --deep takes for reading stream and table again."""

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("reconcile")(reconcile)
    letters = typer.Typer(help="Messages that ingest could not use.", no_args_is_help=True, rich_markup_mode=None)
    letters.command("list")(list_letters)
    letters.command("show")(show_letter)
    letters.command("replay")(replay_letters)
    app.add_typer(letters, name="dead-letters")


def _endpoints() -> Endpoints:
    from enchanted.cluster import services  # pydantic costs a tenth of a second of every `--help`

    return services.endpoints_in_cluster() or services.read_endpoints(services.home_of(console.settings()).path)


def reconcile(
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="Write what is missing from the stream.")] = True,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every message and every row again, however long it takes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what was emitted, acknowledged, kept by the stream and stored in the table; exit 1 if they differ.

    A part of both is read again to find damage; a damaged part of the table is written again from the stream.
    """
    report = asyncio.run(_reconcile(_endpoints(), repair, deep))
    if as_json:
        console.emit_json(report.as_dict())
    else:
        _show(report)
    if not report.sound:
        raise typer.Exit(CHECK_FAILED)


async def _reconcile(endpoints: Endpoints, repair: bool, deep: bool) -> Report:
    from enchanted.ingest.reconciler import Reconciler  # nats and ClickHouse's client: not for `--help`

    async with Reconciler(
        nats_url=endpoints.nats_url, clickhouse_url=endpoints.clickhouse_url, name="enchanted-reconcile"
    ) as reconciler:
        return await reconciler.check(repair=repair, deep=deep, scrub_seconds=SCRUB_SECONDS)


def _show(report: Report) -> None:
    agents = report.agents
    rows: list[tuple[str, str]] = [
        ("emitted", f"{agents.emitted} numbered events of {agents.agents} agents, {agents.stored} in the table"),
        ("acknowledged", f"up to {report.acknowledged}; the stream is at {report.last_seq}"),
        ("in the stream", f"{report.in_stream} messages from {report.first_seq} up to there"),
        ("in the table", f"{report.rows} rows, {report.duplicates} of them later copies of an event"),
        ("dead letters", str(report.dead_letters)),
    ]
    if report.missing:
        rows.append(("missing", f"{report.missing.count}: {report.missing}"))
    if report.healed or report.buried:
        rows.append(("healed", f"{report.healed} rows, {report.buried} dead letters"))
    if report.settled:
        rows.append(("settled", f"{report.settled} rows that were visible beside an earlier copy of their event"))
    for name, ranges in (
        ("conflicting copies", report.conflicting),
        ("not healed", report.unhealed),
        ("lost by the stream", report.stream_gaps),
        ("row and dead letter", report.twofold),
        ("beyond the stream", report.beyond),
    ):
        if ranges:
            rows.append((name, f"{ranges.count}: {ranges}"))
    rows += scrub_rows(report)
    for gap in agents.gaps:
        rows.append(("agent's events", f"{one_line(gap.agent_id)}: {gap.first}-{gap.last} are nowhere"))
    for former in report.former_streams:
        rows.append(("former stream", f"{former.created:%Y-%m-%d %H:%M:%S}: {former.rows} rows"))
    # What ingest has not come to is not compared, and must not look as if it were.
    waiting = report.last_seq - report.acknowledged
    rest = f" up to {report.acknowledged}; {waiting} messages after it are not acknowledged yet" if waiting > 0 else ""
    rows.append(("verdict", ("equal" if report.sound else "NOT EQUAL") + rest))
    console.emit_table(("", ""), rows)


def list_letters(
    after: Annotated[int, typer.Option(min=0, help="Only above this dead letter.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the oldest first.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the dead letters, the oldest first."""
    found = asyncio.run(_list(_endpoints(), after, limit + 1))
    shown = found[:limit]
    if as_json:
        console.emit_json({"data": [_summary(letter) for letter in shown]})
    else:
        console.emit_table(LETTER_COLUMNS, map(_row, shown))
    if len(found) > limit:
        console.say(f"more are not shown: --after {shown[-1].seq}")


async def _list(endpoints: Endpoints, after: int, limit: int) -> list[DeadLetter]:
    from enchanted.bus.connection import Bus
    from enchanted.bus.dead_letters import DeadLetters

    async with Bus.connect(endpoints.nats_url, name="enchanted-dead-letters") as bus:
        return await DeadLetters(bus).list(after=after, limit=limit)


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "seq": letter.seq,
        "time": letter.time.isoformat(),
        "reason": letter.reason,
        "detail": letter.detail,
        "original_seq": letter.original_seq,
        "original_time": letter.original_time.isoformat(),
        "original_subject": letter.original_subject,
        "original_id": letter.original_id,
        "bytes": len(letter.payload),
    }


def _row(letter: DeadLetter) -> tuple[object, ...]:
    subject, detail = one_line(letter.original_subject, 60), one_line(letter.detail, 80)
    when = f"{letter.time:%Y-%m-%d %H:%M:%S}"
    return letter.seq, when, one_line(letter.reason), letter.original_seq, subject, len(letter.payload), detail


def show_letter(
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="As `list` names it.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with its bytes: as hex, or with --json as base64."""
    letter = asyncio.run(_get(_endpoints(), seq))
    document = {**_summary(letter), "headers": letter.original_headers}
    if as_json:
        console.emit_json({**document, "payload": b64encode(letter.payload).decode()})
        return
    headers = document.pop("headers")
    named = [*document.items(), *((f"header {name}", value) for name, value in headers.items())]
    console.emit_table(("", ""), ((one_line(name), one_line(str(value), 2_000)) for name, value in named))
    for start in range(0, len(letter.payload), 32):
        console.emit(f"{start:08x}  {letter.payload[start : start + 32].hex(' ', -4)}")


async def _get(endpoints: Endpoints, seq: int) -> DeadLetter:
    from enchanted.bus.connection import Bus
    from enchanted.bus.dead_letters import DeadLetters
    from enchanted.bus.errors import MessageMissing

    async with Bus.connect(endpoints.nats_url, name="enchanted-dead-letters") as bus:
        try:
            return await DeadLetters(bus).get(seq)
        except MessageMissing as error:
            remedy = "`enchanted dead-letters list` names those there are"
            raise CommandFailed(f"there is no dead letter {seq}", remedy, NOT_FOUND) from error


def replay_letters(
    seqs: Annotated[
        list[int] | None, typer.Argument(metavar="[SEQ...]", min=1, help="By default all of them.", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for ingest.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Publish dead letters again as they were, and say what became of them; exit 1 unless all are ingested."""
    outcomes = asyncio.run(_replay(_endpoints(), seqs or [], wait))
    if as_json:
        console.emit_json({"data": [outcome.as_dict() for outcome in outcomes]})
    else:
        for outcome in outcomes:
            console.emit(outcome.sentence())
        if not outcomes:
            console.say("there are no dead letters")
    if not all(outcome.ingested for outcome in outcomes):
        raise typer.Exit(CHECK_FAILED)


async def _replay(endpoints: Endpoints, seqs: list[int], wait: float) -> list[Replayed]:
    from enchanted.bus.connection import Bus
    from enchanted.cluster.commands.data_replay import replay

    async with Bus.connect(endpoints.nats_url, name="enchanted-dead-letters") as bus:
        return await replay(bus, seqs, wait)
