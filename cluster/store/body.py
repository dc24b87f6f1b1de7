"""Request and response bodies: decompressed, bounded, and on disk when large."""

from __future__ import annotations

import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

import lz4.frame
from backports import zstd

from enchanted.cluster.store.errors import BodyTooLarge, BodyUnreadable, NotSupported

LIMIT = 2 * 1024**3
"""Bytes a request body may have once decompressed."""
IN_MEMORY = 32 * 1024**2
"""Bytes of a body kept in memory, a batch of ingest with room to spare; what is larger is a file in the data folder."""
CHUNK = 1024**2
WORTH_COMPRESSING = 4096

_DECODERS: dict[str, Callable[[], Any]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(31),
    "deflate": zlib.decompressobj,
}
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": lambda data: zstd.compress(data, 1),
    "gzip": lambda data: zlib.compress(data, 1, 31),
}


class Decoder:
    """Undoes a Content-Encoding piece by piece; a body may hold several frames in a row."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("", "identity") and encoding not in _DECODERS:
            raise NotSupported(f"Content-Encoding {encoding}; use one of {', '.join(_DECODERS)}")
        self._make = _DECODERS.get(encoding)
        self._decoder: Any = self._make() if self._make else None

    def feed(self, data: bytes) -> bytes:
        """The plain bytes that this piece completes.

        Raises:
            BodyUnreadable: the bytes are not what the header says.
        """
        if self._make is None:
            return data
        plain = bytearray()
        try:
            while data:
                if self._decoder.eof:
                    self._decoder = self._make()
                plain += self._decoder.decompress(data)
                data = self._decoder.unused_data if self._decoder.eof else b""
        except (RuntimeError, zstd.ZstdError, zlib.error) as error:
            raise BodyUnreadable(f"Cannot decompress the request body: {error}") from error
        return bytes(plain)

    def finish(self) -> None:
        """Check that the last frame was whole."""
        if self._decoder is not None and not self._decoder.eof:
            raise BodyUnreadable("Cannot decompress the request body: it ends in the middle")


class Body:
    """A request body at rest, in a file without a name: read as often as needed, removed by `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size = 0
        # Unbuffered: what is written is what another descriptor of the file reads.
        self._file: IO[bytes] = os.fdopen(os.memfd_create("body"), "w+b", buffering=0)

    async def fill(self, chunks: AsyncIterator[bytes], encoding: str, limit: int = LIMIT) -> None:
        """Take it all in.

        Raises:
            BodyTooLarge: it is over the limit.
            BodyUnreadable: it cannot be decompressed.
        """
        decoder, received = Decoder(encoding), 0
        async for chunk in chunks:
            received += len(chunk)
            plain = decoder.feed(chunk)
            if self.size + len(plain) > limit:
                raise BodyTooLarge(limit)
            if self.size <= IN_MEMORY < self.size + len(plain):
                self._to_disk()
            self.size += len(plain)
            _write(self._file, plain)
        if received:
            decoder.finish()

    def head(self, size: int) -> bytes:
        """The first bytes."""
        self._file.seek(0)
        return self._file.read(size)

    def chunks(self, start: int) -> Iterator[bytes]:
        """Everything from ``start`` on."""
        self._file.seek(start)
        while chunk := self._file.read(CHUNK):
            yield chunk

    @contextmanager
    def file(self, before: bytes, start: int) -> Iterator[IO[bytes]]:
        """A file with a descriptor that holds ``before`` and everything from ``start`` on; this one where it can be."""
        if not before and not start:
            yield self._file
            return
        with Body(self.folder) as part:
            if self.size > IN_MEMORY:
                part._to_disk()
            _write(part._file, before)
            for chunk in self.chunks(start):
                _write(part._file, chunk)
            yield part._file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()

    def _to_disk(self) -> None:
        file: IO[bytes] = TemporaryFile(dir=str(self.folder), buffering=0)  # noqa: SIM115 - closed by close()
        for chunk in self.chunks(0):
            _write(file, chunk)
        self._file.close()
        self._file = file


def _write(file: IO[bytes], data: bytes) -> None:
    """All of it: an unbuffered file may take less at a time."""
    done = file.write(data)
    while done < len(data):
        done += file.write(memoryview(data)[done:])


def choose_encoding(accepted: tuple[str, ...]) -> str:
    """The cheapest compression the client takes; empty for none."""
    return next((name for name in _ENCODERS if name in accepted), "")


def compress(data: bytes, encoding: str) -> bytes:
    """One whole frame."""
    return _ENCODERS[encoding](data)
