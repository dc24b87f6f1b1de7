"""What `reconcile` says about damage in stream and table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchanted.cluster.commands.reading_text import one_line

if TYPE_CHECKING:
    from enchanted.ingest.reconcile_report import Report
    from enchanted.ingest.scrub_report import DamagedPart


def scrub_rows(report: Report) -> list[tuple[str, str]]:
    """Lines for people: how much was read again, and what of it is damaged."""
    scrub = report.scrub
    reached = report.last_seq if scrub.stream_seconds is not None else scrub.stream_reached
    rows = [
        ("read again", f"the stream up to {reached} of {report.last_seq}, {scrub.parts_read} of {scrub.parts} parts"),
    ]
    for name, ranges in (
        ("stream cannot give", scrub.unreadable),
        ("altered in stream", scrub.altered),
        ("replaced in stream", scrub.replaced),
        ("kept by the table", scrub.kept),
        ("lost by the table", scrub.lost),
    ):
        if ranges:
            rows.append((name, f"{ranges.count}: {ranges}"))
    rows += [_part(part) for part in scrub.damaged_parts]
    rows += [("beside the table", one_line(f"{one.name} {one.reason}".rstrip())) for one in scrub.detached]
    return rows


def _part(part: DamagedPart) -> tuple[str, str]:
    what = f"{part.name}, {part.rows} rows ({part.holds}): {part.why}"
    if part.healed:
        return "part healed", one_line(what, 400)
    damaged = f"; damaged rows: {part.damaged}" if part.damaged else ""
    return "PART DAMAGED", one_line(f"{what}{damaged}; kept: {part.kept_because or 'nothing is repaired now'}", 1_000)
