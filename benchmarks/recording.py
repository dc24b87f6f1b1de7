"""What does it cost to record one file change? Snapshot and diff in a repository of many files."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from pathlib import Path

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.benchmarks.case import Benchmark, Result, Row

QUESTION = "milliseconds to turn one changed file into a tree and a patch, in a repository of 5,000 files"


async def run(smoke: bool) -> Result:
    """Change one file at a time and record it, beside `git add -A && git write-tree && git diff-tree`."""
    files, changes = (500, 5) if smoke else (5_000, 100)
    with tempfile.TemporaryDirectory() as folder:
        user = Path(folder, "user")
        _make_repository(user, files)
        repository = await ShadowRepository.create(Path(folder, "shadow"), user)
        workspace = await Workspace.checkout(repository, Path(folder, "work"), repository.base_tree)
        chance, ours, bare, tree = random.Random(1), [], [], repository.base_tree
        for number in range(changes):
            path = workspace.path / _name(chance.randrange(files))
            path.write_text(f"changed = {number}\n")
            begun = time.perf_counter()
            new = await workspace.snapshot()
            await repository.diff(tree, new)
            ours.append((time.perf_counter() - begun) * 1_000)
            tree = new
            (user / _name(chance.randrange(files))).write_text(f"changed = {number}\n")
            begun = time.perf_counter()
            await asyncio.to_thread(_record_by_hand, user)
            bare.append((time.perf_counter() - begun) * 1_000)
        await workspace.close()
    rows = (
        Row(name="git by hand", unit="ms", samples=bare),
        Row(name="Workspace.snapshot + diff", unit="ms", samples=ours, floor="git by hand"),
        Row(name="Workspace.snapshot + diff p95", unit="ms", samples=[sorted(ours)[int(len(ours) * 0.95)]]),
    )
    return Result(benchmark="recording", question=QUESTION, rows=rows, notes=(f"{files} files",), smoke=smoke)


def _record_by_hand(folder: Path) -> None:
    for arguments in (("add", "-A"), ("write-tree",), ("diff-index", "-p", "--cached", "HEAD")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def _name(number: int) -> str:
    return f"package{number % 50}/module{number}.py"


def _make_repository(folder: Path, files: int) -> None:
    for number in range(files):
        path = folder / _name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"value = {number}\n" * 20)
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.invalid")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "base")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


BENCHMARK = Benchmark(name="recording", question=QUESTION, run=run)
