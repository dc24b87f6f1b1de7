"""How an export is written: lines of JSON, an Arrow stream, or a Parquet file, each page by page."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from enchanted.serve.queries.events import row_document
from enchanted.serve.sources.parameters import microseconds
from enchanted.serve.sources.store import PAGE_BYTES, EventRow, Store

if TYPE_CHECKING:
    from pyarrow import Table

Format = Literal["ndjson", "arrow", "parquet"]
MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
_MOST = {"most_bytes": PAGE_BYTES, "most_memory": 2_000_000_000}
"""Of one page: bytes of its answer, and what the store may take to make it. It reads a page before it counts it, and
several times its bytes at that."""
_ANY: dict[str, Any] = {"trace": "", "agent": "", "role": "", "kind": "", "q": "", "descending": 0, "earlier": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page as it is written."""

    data: bytes
    rows: int
    last: int
    """Sequence of its last event; 0 for none."""
    time: int
    """When the stream stored that event, in microseconds since 1970; 0 for none."""
    size: int
    """Bytes its events took in memory."""


class Encoder(Protocol):
    """One export's writer."""

    async def page(self, store: Store, bound: Mapping[str, Any]) -> Page:
        """Read and write one page.

        Raises:
            TooMuchAsked: its events have more bytes than a page may have; nothing was written.
            StoreUnavailable: they take the store too long or too much memory, or it does not answer; likewise.
        """
        ...

    def end(self) -> bytes:
        """What comes after the last page."""
        ...


async def read_page(store: Store, bound: Mapping[str, Any], write: Callable[[list[EventRow]], bytes]) -> Page:
    """A page of whole events, as ``write`` puts them down."""
    rows = await store.events("events_page", **_MOST, **_ANY, **bound)
    data = await asyncio.to_thread(write, rows)
    size = sum(len(row.raw) for row in rows)
    last, time = (rows[-1].seq, microseconds(rows[-1].time)) if rows else (0, 0)
    return Page(data=data, rows=len(rows), last=last, time=time, size=size)


class Lines:
    """One JSON document a line, the same as in a page of events."""

    async def page(self, store: Store, bound: Mapping[str, Any]) -> Page:
        """Read and write one page."""
        return await read_page(store, bound, _lines)

    def end(self) -> bytes:
        """Nothing."""
        return b""


class Columns:
    """ClickHouse's own Arrow output, each page a record batch of one stream or a row group of one Parquet file."""

    def __init__(self, output: Literal["arrow", "parquet"]) -> None:
        self._output = output
        self._sink = _Sink()
        self._writer: Any = None

    async def page(self, store: Store, bound: Mapping[str, Any]) -> Page:
        """Read and write one page."""
        body = await store.whole("events_columns", "ArrowStream", **_MOST, **bound)
        return await asyncio.to_thread(self._written, body)

    def end(self) -> bytes:
        """The end of the stream, or the foot of the file."""
        self._writer.close()
        return self._sink.take()

    def _written(self, body: bytes) -> Page:
        import pyarrow.ipc  # takes half a second of every start, and few ever export

        table = pyarrow.ipc.open_stream(body).read_all()
        if self._writer is None:
            self._writer = self._begun(table)
        if table.num_rows:
            self._writer.write_table(table)
        last, time = 0, 0
        if table.num_rows:
            last, time = table.column("seq")[-1].as_py(), table.column("stream_time")[-1].value
        return Page(data=self._sink.take(), rows=table.num_rows, last=last, time=time, size=table.nbytes)

    def _begun(self, table: Table) -> Any:
        import pyarrow.ipc
        import pyarrow.parquet

        if self._output == "parquet":
            return pyarrow.parquet.ParquetWriter(self._sink, table.schema, compression="zstd")
        options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
        return pyarrow.ipc.new_stream(self._sink, table.schema, options=options)


def encoder(output: Format) -> Encoder:
    """The writer for a format."""
    return Lines() if output == "ndjson" else Columns(output)


def _lines(rows: Sequence[EventRow]) -> bytes:
    return b"".join(orjson.dumps(row_document(row)) + b"\n" for row in rows)


class _Sink(io.RawIOBase):
    """A file that is only written: what has been written is taken out piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data
