"""``python -m enchanted.actors.rerun FILE``: run a recording again, without services or network; 1 if it differs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import orjson

from enchanted.actors.errors import ActorError
from enchanted.actors.rerun import file
from enchanted.actors.rerun.document import to_json
from enchanted.actors.rerun.driver import Verdict, rerun


async def perform(recording: Path, start: int) -> Verdict:
    """The verdict over a file.

    Raises:
        NotARecording, CannotRerun: see `file.load`.
    """
    loaded = await file.load(recording)
    with tempfile.TemporaryDirectory(prefix="enchanted-rerun-") as folder:
        return await rerun(loaded, Path(folder), start=start)


def main() -> int:
    """Print the verdict as JSON."""
    parser = argparse.ArgumentParser(prog="python -m enchanted.actors.rerun", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--from", dest="start", type=int, default=0, metavar="SEQ", help="begin at or before this")
    given = parser.parse_args()
    try:
        verdict = asyncio.run(perform(given.file, given.start))
    except (ActorError, OSError) as error:
        cause, _, remedy = str(error).partition("; ")
        print(f"error: {cause}\nremedy: {remedy or 'give the path of a recording'}", file=sys.stderr)
        return 2
    print(orjson.dumps(to_json(verdict), option=orjson.OPT_INDENT_2).decode())
    return 0 if verdict.equal else 1


if __name__ == "__main__":
    sys.exit(main())
