"""The examples of docs/queries.md, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet
import pytest

from enchanted.serve.testing import History, World

PAGE = Path(__file__).parents[3] / "docs" / "queries.md"
EXAMPLES = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

JAEGER = {"data", "total", "limit", "offset", "errors"}


async def _run(world: World, run: str, example: str, folder: Path) -> bytes:
    variables = {
        "API": world.url,
        "TOKEN": world.token_file.read_text().strip(),
        "RUN": run,
        "PATH": os.environ["PATH"],
    }
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", example,
        env=variables, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (example, output, errors.decode())
    return output


def _made(folder: Path) -> dict[str, Path]:
    """The files in a folder by their ending."""
    return {path.suffix: path for path in folder.iterdir()}


def test_the_page_has_an_example_of_every_question() -> None:
    for resource in ("events", "agents/stats", "decisions/reverted", "sql", "export"):
        assert any(f"/api/v1/{resource}" in example for example in EXAMPLES)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_every_example_works(world: World, history: History, tmp_path: Path, example: str) -> None:
    output = await _run(world, history.run, example, tmp_path)

    made = _made(tmp_path)
    if ".ndjson" in made:
        lines = made[".ndjson"].read_bytes().splitlines()
        assert [json.loads(line)["seq"] for line in lines] == [stored.seq for stored in history.events]
    elif ".parquet" in made:
        assert pyarrow.parquet.read_table(made[".parquet"]).num_rows == len(history.events)
    elif ".arrow" in made:
        assert pyarrow.ipc.open_stream(made[".arrow"].read_bytes()).read_all().num_rows >= len(history.events)
    else:
        decoder, at, text = json.JSONDecoder(), 0, output.decode()
        while at < len(text):
            document, at = decoder.raw_decode(text, at)
            assert document.keys() in ({"data", "meta"}, {"columns", "rows", "meta"}, JAEGER)
            # The run has no spans, and nobody doubted in it.
            empty = any(word in example for word in ("spans", "reverted", "/api/traces"))
            assert document.get("data") or document.get("rows") or empty
