"""`enchanted run` as a user types it, with the model without weights: verdicts, branches, the log, the spans."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.repository.git import Git
from enchanted.bus.connection import Bus
from enchanted.cluster.commands.run import DEMO_CHECKS, DEMO_PROJECT
from enchanted.cluster.testing import HomeUnderTest, eventually
from enchanted.cluster.testing_servers import SpanReceiver
from enchanted.schemas.events import StoredEvent, kind_of

pytestmark = pytest.mark.timeout(300)

TASK = "make the linter pass"
RUFF = ("--check", "ruff check .")
LAST_LINE = re.compile(
    r"(run-[0-9a-f]{12}) (\w+), (branch \S+|no branch), (http://\S+/runs/(run-[0-9a-f]{12})#code=[0-9a-f]{72})\n"
)
OPERATIONS = {"invoke_workflow", "invoke_agent", "execute_tool", "chat"}

Repository = Callable[..., Git]


@dataclass(frozen=True)
class Ended:
    """A run that has its verdict, as its `--json` document says."""

    run_id: str
    verdict: str
    document: dict[str, Any]
    chatter: str


def begin(home: HomeUnderTest, repo: Path, *arguments: str) -> subprocess.Popen[str]:
    return home.popen("run", TASK, "--repo", str(repo), "--json", *arguments)


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for the verdict; the exit code must be the verdict's."""
    with process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode in (0, 1), errors
    document = json.loads(output)
    assert process.returncode == (0 if document["verdict"] == "merged" else 1)
    return Ended(document["run_id"], document["verdict"], document, errors)


def standing(git: Git) -> tuple[bytes, bytes, bytes]:
    """What a run must leave as it is."""
    return git.run("status", "--porcelain"), git.run("branch", "--show-current"), git.run("rev-parse", "HEAD")


async def stream_of(home: HomeUnderTest, run_id: str) -> list[StoredEvent]:
    async with Bus.connect(home.status()["nats_url"], name="test") as bus:
        return await bus.read_run(run_id)


async def test_a_run_ends_in_a_verdict_on_a_branch_and_its_log_is_whole(
    swarm: HomeUnderTest, receiver: SpanReceiver, repository: Repository, tmp_path: Path
) -> None:
    git = repository()
    before = standing(git)
    done = swarm.run("run", TASK, "--repo", str(tmp_path / "shop"), *RUFF)
    assert done.returncode == 0, done.stderr
    found = LAST_LINE.fullmatch(done.stdout)
    assert found, done.stdout
    run_id = found[1]
    assert (found[2], found[3], found[5]) == ("merged", f"branch enchanted/{run_id}", run_id)
    assert "coder-1 decided: " in done.stderr
    assert standing(git) == before
    assert git.run("show", f"enchanted/{run_id}:shop.py").strip().startswith(b"def status(order):")

    verified = swarm.run("verify", run_id)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # The orchestrator's last sign of life comes after its verdict.
    eventually(lambda: '"STOPPING"' in last_event(swarm, run_id), seconds=60, about="the orchestrator has left")
    log = await stream_of(swarm, run_id)
    listed = swarm.run("events", run_id, "--output", "ndjson").stdout.splitlines()
    assert [json.loads(line)["event_id"] for line in listed] == [stored.event.event_id for stored in log]

    in_one_trace_with_live_spans(receiver, run_id, log)


def last_event(home: HomeUnderTest, run_id: str) -> str:
    return home.run("tail", run_id, "-n", "1", "--output", "ndjson").stdout


def in_one_trace_with_live_spans(receiver: SpanReceiver, run_id: str, log: list[StoredEvent]) -> None:
    about_work = [s.event for s in log if kind_of(s.event) in ("decision", "model_call", "tool_call", "state_change")]
    (trace_id,) = {event.trace_id for event in about_work}
    wanted = {event.span_id for event in about_work}

    def arrived() -> bool:
        spans = [span for span in receiver.spans if span.trace_id == trace_id]
        operations = {span.attributes.get("gen_ai.operation.name") for span in spans}
        return operations >= OPERATIONS and {span.span_id for span in spans} >= wanted

    eventually(arrived, seconds=15, about="every span of the run is exported")
    of_run = {s.trace_id for s in receiver.spans if s.attributes.get("gen_ai.conversation.id") == run_id}
    assert of_run == {trace_id}


def test_apply_moves_the_branch_of_a_clean_tree_only_and_detach_returns_at_once(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path
) -> None:
    clean, dirty, away = repository("clean"), repository("dirty"), repository("away")
    (tmp_path / "dirty" / "shop.py").write_text("half done\n")
    (tmp_path / "clean" / "notes.txt").write_text("untracked\n")
    before = standing(dirty)
    detached = swarm.run("run", TASK, "--repo", str(tmp_path / "away"), *RUFF, "--detach")
    assert detached.returncode == 0, detached.stderr
    running = [begin(swarm, tmp_path / name, *RUFF, "--apply", "--coders", "1") for name in ("clean", "dirty")]
    applied, kept = map(ended, running)

    assert (applied.verdict, kept.verdict) == ("merged", "merged"), kept.chatter
    assert clean.run("rev-parse", "HEAD") == clean.run("rev-parse", applied.document["branch"])
    assert clean.run("status", "--porcelain") == b"?? notes.txt\n"
    assert "note: 1 uncommitted changes" in kept.chatter
    assert "not applied: the working tree has uncommitted changes" in kept.document["reason"]
    assert standing(dirty) == before
    assert (tmp_path / "dirty" / "shop.py").read_text() == "half done\n"

    run_id = detached.stdout.strip()
    eventually(lambda: run_info(swarm, run_id)["closed"], seconds=60, about="the detached run has a verdict")
    assert away.run("branch", "--list", "enchanted/*").decode().split() == [f"enchanted/{run_id}"]


def run_info(home: HomeUnderTest, run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(home.run("run-info", run_id, "--json").stdout)
    return document


VARIANTS = (
    {"inventory": "library", "items": "books", "shelves": "rooms", "orders": "loans", "report": "summary"},
    {"Shelf": "Tank", "shelf": "tank", "Item": "Fish", "fulfil": "catch", "is_open": "waits", "label": "tag"},
    {"back order": "on hold", "new order": "fresh", '"back", "order"': '"on", "hold"', "Order": "Wish", "take": "draw"},
)


def test_renamed_variants_of_the_demo_end_in_a_verdict(swarm: HomeUnderTest, tmp_path: Path) -> None:
    folders = [renamed_demo(tmp_path / f"variant-{number}", names) for number, names in enumerate(VARIANTS)]
    checks = [part for check in DEMO_CHECKS for part in ("--check", check)]
    running = [begin(swarm, folder, *checks, "--seed", str(n), "--coders", "1") for n, folder in enumerate(folders)]
    for folder, done in zip(folders, map(ended, running), strict=True):
        assert done.verdict in ("merged", "rejected"), done.document
        git = Git(cwd=folder)
        assert standing(git)[:2] == (b"", b"main\n")
        branches = git.run("branch", "--list", "enchanted/*").decode().split()
        assert branches == ([done.document["branch"]] if done.verdict == "merged" else [])
        assert swarm.run("verify", done.run_id).returncode == 0


def renamed_demo(folder: Path, names: dict[str, str]) -> Path:
    """The demo project with other names in its files and for its files, which behaves as the original does."""
    shutil.copytree(DEMO_PROJECT, folder, ignore=shutil.ignore_patterns(".ruff_cache", "__pycache__"))
    for path in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        if path.is_file():
            path.write_text(renamed(path.read_text(), names))
        path.rename(path.with_name(renamed(path.name, names)))
    git = Git(cwd=folder, environment={"GIT_AUTHOR_NAME": "A User", "GIT_AUTHOR_EMAIL": "user@example.org"})
    git.run("init", "-q", "-b", "main")
    git.run("add", "-A")
    git.run("-c", "user.name=A User", "-c", "user.email=user@example.org", "commit", "-q", "-m", "first")
    return folder


def renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def test_binary_large_and_oddly_named_files_do_not_stop_a_run(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path
) -> None:
    odd = ["with space.py", "süß.py", "new\nline.txt", '"quoted".py', "-dash.py", os.fsdecode(b"not\xffutf8.txt")]
    files: dict[str, str | bytes] = dict.fromkeys(odd, "import os\n")
    files |= {"data.bin": bytes(range(256)) * 8, "large.bin": os.urandom(50_000_000), "empty.py": ""}
    git = repository("odd", files)
    before = standing(git)
    done = ended(begin(swarm, tmp_path / "odd", *RUFF, "--coders", "1"))
    assert done.verdict == "merged", done.document
    assert standing(git) == before
    changed = git.run("diff", "--name-only", "-z", "main", done.document["branch"]).split(b"\0")[:-1]
    assert set(changed) == {os.fsencode(name) for name in odd if name.endswith(".py")}
    assert swarm.run("verify", done.run_id).returncode == 0
