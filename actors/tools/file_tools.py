"""Tools that read and change files; each change is the smallest that was asked for."""

from __future__ import annotations

from pathlib import Path

from enchanted.actors.errors import ToolRefused
from enchanted.actors.tools.confined_files import ConfinedFiles
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.text_edits import line_ending, line_starts


class FileTools:
    """Reads and writes beneath ``root``; raises ActorError, which the tool box turns into a result."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.files = ConfinedFiles(root, max_bytes=max_bytes)

    def read_file(self, path: str, first: int, last: int) -> ToolResult:
        """Lines ``first`` to ``last`` of a text file; 0 is the end. Data: lines, first, last."""
        data = self.files.read(path)
        if b"\0" in data:
            raise ToolRefused(f"{path} is a binary file of {len(data)} bytes")
        text = data.decode("utf-8", "replace")
        starts = _lines(text)
        first, last = max(1, first), min(last or len(starts), len(starts))
        if first > max(1, len(starts)):
            raise ToolRefused(f"{path} has {len(starts)} lines")
        end = starts[last] if last < len(starts) else len(text)
        shown = text[starts[first - 1] : end] if starts and last >= first else ""
        return ToolResult(outcome="OK", output=shown, data={"lines": len(starts), "first": first, "last": last})

    def edit(self, path: str, search: str, replace: str) -> ToolResult:
        """Replace the one place where ``search`` stands."""
        data = self.files.read(path)
        wanted, new = _bytes(search), _bytes(replace)
        if b"\r\n" in data and wanted not in data:
            wanted, new = (_with_crlf(part) for part in (wanted, new))
        count = data.count(wanted) if wanted else 0
        if count != 1:
            raise ToolRefused(
                f"the text to replace stands {count} times in {path}, it must stand there exactly once: "
                f"{'copy it exactly from the file' if not count else 'give more lines around it'}"
            )
        return self._write(path, data.replace(wanted, new), before=data)

    def write_file(self, path: str, content: str) -> ToolResult:
        """Make a file, or replace all of it."""
        self.files.write(path, _bytes(content))
        return ToolResult(outcome="OK", output=f"wrote {path}", data={"path": path})

    def replace_lines(self, path: str, first: int, last: int, text: str) -> ToolResult:
        """Replace lines ``first`` to ``last``; empty text removes them, ``last = first - 1`` inserts before."""
        data = self.files.read(path)
        try:
            source = data.decode()
        except UnicodeDecodeError as error:
            raise ToolRefused(f"{path} is not UTF-8 text") from error
        starts = _lines(source)
        if not (1 <= first <= len(starts) + 1 and first - 1 <= last <= len(starts)):
            raise ToolRefused(f"{path} has lines 1 to {len(starts)}; {first} to {last} is no range of them")
        places = [*starts, len(source)]
        before, after = source[: places[first - 1]], source[places[last] :]
        ending = line_ending(source)
        if ending == "\r\n":
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        if text and not text.endswith(("\n", "\r")) and (after or source.endswith(("\n", "\r"))):
            text += ending
        if text and before and not before.endswith(("\n", "\r")):
            before += ending
        return self._write(path, _bytes(before + text + after), before=data)

    def _write(self, path: str, data: bytes, *, before: bytes) -> ToolResult:
        if data == before:
            return ToolResult(outcome="FAILED", reason="this changes nothing", data={"path": path})
        self.files.write(path, data, create=False)
        return ToolResult(outcome="OK", output=f"changed {path}", data={"path": path})


def _lines(text: str) -> list[int]:
    starts = line_starts(text)
    return starts[:-1] if starts[-1] == len(text) else starts


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolRefused("the text is not valid Unicode") from error


def _with_crlf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
