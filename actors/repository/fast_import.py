"""Blobs from one repository into another, whatever their hash kinds, in bounded memory."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from enchanted.actors.errors import GitFailed, MissingContent, disk_as_git
from enchanted.actors.repository.git import Git, stop

_CHUNK = 1 << 20


class FastImport:
    """A running `git fast-import`; leaving the block without an error finishes it."""

    @disk_as_git("fast-import")
    def __init__(self, target: Git, *, marks: Path | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        export = [f"--export-marks={marks}"] if marks else []
        self._process = target.start(
            "fast-import", "--quiet", "--done", "--force", *export,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
        )  # fmt: skip

    def __enter__(self) -> FastImport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._errors:
            if error is not None and not isinstance(error, BrokenPipeError):
                stop(self._process)
                return
            try:
                if error is None:
                    self._sink.write(b"done\n")
                self._sink.close()
            except BrokenPipeError:
                pass
            if self._process.wait() != 0 or error is not None:
                self._errors.seek(0)
                why = self._errors.read(4000).decode("utf-8", "replace").strip()
                raise GitFailed(("fast-import",), why) from error

    @property
    def _sink(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def blobs(self, source: Git, ids: Sequence[str]) -> dict[str, int]:
        """Copy blobs of ``source``; gives the mark of each id."""
        marks = {blob: number for number, blob in enumerate(ids, start=1)}
        with _lines(ids) as wanted:
            reader = source.start(
                "cat-file", "--batch", "--buffer",
                stdin=wanted, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                assert reader.stdout is not None
                for blob, mark in marks.items():
                    self._copy_one(reader.stdout, blob, mark)
            finally:
                stop(reader)
        return marks

    def _copy_one(self, stream: IO[bytes], blob: str, mark: int) -> None:
        header = stream.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise MissingContent(f"object {blob} (a partial or damaged clone: run `git fetch --refetch` or `git fsck`)")
        left = int(header[2])
        self._sink.write(b"blob\nmark :%d\ndata %d\n" % (mark, left))
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                raise MissingContent(f"object {blob} (the copy was cut short)")
            self._sink.write(chunk)
            left -= len(chunk)
        stream.read(1)
        self._sink.write(b"\n")

    def write(self, lines: Iterable[bytes]) -> None:
        """Further commands, as the fast-import stream spells them."""
        self._sink.writelines(lines)


@disk_as_git("cat-file")
def _lines(ids: Iterable[str]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever reads it
    file.writelines(name.encode() + b"\n" for name in ids)
    file.seek(0)
    return file


def read_marks(path: Path) -> dict[int, str]:
    """Object ids by mark, from an ``--export-marks`` file."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {int(mark[1:]): object_id for mark, object_id in pairs}
