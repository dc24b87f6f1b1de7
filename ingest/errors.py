"""One class per condition; every message names the remedy."""

from __future__ import annotations


class IngestError(Exception):
    """Base of everything ingest can object to."""


class TableUnavailable(IngestError):
    """ClickHouse did not answer, or refused for a reason that may pass."""

    exit_code = 4

    def __init__(self, why: str) -> None:
        super().__init__(f"ClickHouse cannot be used now: {why}; `enchanted status` shows whether it runs")


class TableForbidden(TableUnavailable):
    """The login of ClickHouse may not do this."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} (grant the login SELECT ON system.processes if that is what is named)")


class RowRefused(IngestError):
    """ClickHouse refuses rows for what is in them."""

    def __init__(self, why: str) -> None:
        super().__init__(f"ClickHouse refuses the row: {why}; its bytes are in the dead letters")


class NotAnExport(IngestError):
    """Bytes that are no OTLP trace export."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no OTLP trace export: {why[:300]}; send an ExportTraceServiceRequest as protobuf or JSON")


class SchemaChanged(IngestError):
    """A numbered SQL file is not the one that was applied."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(
            f"schemas/sql/{number:03d}_{name}.sql was applied in another form; if an older Enchanted made these "
            "tables, drop them (the embedded store: remove its folder while it is down) and the stream fills them again"
        )


class BadUrl(IngestError):
    """The ClickHouse URL cannot be read."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url!r} is no ClickHouse URL; it looks like http://user:password@host:8123/database")
