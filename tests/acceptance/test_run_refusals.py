"""What a user may get wrong, Ctrl-C, and a producer that knows nothing of us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import nats
import pytest

from enchanted.actors.repository.git import Git
from enchanted.cluster.testing import HomeUnderTest, eventually
from enchanted.schemas.gen.events_pb2 import ROLE_ARCHITECT, SwarmEvent
from enchanted.serve.client import ApiClient

pytestmark = pytest.mark.timeout(300)

Repository = Callable[..., Git]
FOREIGN_EVENTS = 1_000


REFUSED = (
    (("tidy", "--repo", "plain"), "is not a git repository"),
    (("tidy", "--repo", "empty"), "has no commits"),
    (("tidy", "--repo", "absent"), "is not a folder"),
    (("  ", "--repo", "shop"), "the task is empty"),
    (("tidy", "--repo", "shop", "--model", "gpt:4"), "'gpt:4' is not a model"),
    (("tidy", "--repo", "shop", "--model", "openai:http://127.0.0.1:1/v1"), "the name of the model is missing"),
    (("tidy", "--repo", "shop", "--check", ""), "body.checks.0"),
    (("--repo", "shop"), "Missing argument"),
)


def test_wrong_commands_are_refused_with_a_cause_and_start_no_run(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path
) -> None:
    repository()
    (tmp_path / "plain").mkdir()
    Git(cwd=tmp_path).run("init", "-q", "empty")
    before = newest_run(swarm)
    for arguments, words in REFUSED:
        at = arguments.index("--repo") + 1
        done = swarm.run("run", *arguments[:at], str(tmp_path / arguments[at]), *arguments[at + 1 :])
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = swarm.run("run", "tidy", "--repo", str(tmp_path / "shop"), GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert done.returncode == 2
    assert "belongs to somebody else" in done.stderr
    assert newest_run(swarm) == before


def newest_run(home: HomeUnderTest) -> str:
    return home.run("runs", "--limit", "1").stdout.partition("\t")[0]


def test_a_wrong_token_is_refused_and_the_right_one_named(swarm: HomeUnderTest, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong" * 4)
    done = swarm.run("runs", "--token-file", str(tmp_path / "token"))
    assert done.returncode == 2
    assert "error: A valid bearer token is needed" in done.stderr
    assert "`enchanted status --json` names the token file" in done.stderr


def test_ctrl_c_cancels_the_run_and_leaves_nothing_of_it_behind(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path
) -> None:
    git = repository()
    check = f"sleep 3{os.getpid()}"
    with swarm.popen("run", "tidy", "--repo", str(tmp_path / "shop"), "--check", check) as process:
        eventually(lambda: running(check), seconds=60, about="the check runs")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    run_id, verdict = output.split(",")[0].split()
    assert verdict == "cancelled"
    assert json.loads(swarm.run("run-info", run_id, "--json").stdout)["state"] == "cancelled"
    assert swarm.run("verify", run_id).returncode == 0
    eventually(lambda: not running(check), seconds=10, about="the check's process has ended")
    folder = swarm.home.path / "workspaces" / run_id
    eventually(lambda: [entry.name for entry in folder.iterdir()] == ["repo.git"], seconds=10, about="no workspace")
    assert git.run("branch", "--list", "enchanted/*") == b""
    assert git.run("status", "--porcelain") == b""


def test_a_run_that_nobody_watches_is_cancelled_by_its_id_and_one_that_has_ended_keeps_its_verdict(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path
) -> None:
    repository()
    check = f"sleep 4{os.getpid()}"
    run_id = swarm.run("run", "tidy", "--repo", str(tmp_path / "shop"), "--check", check, "--detach").stdout.strip()
    eventually(lambda: running(check), seconds=60, about="the check runs")
    first, again = swarm.run("cancel", run_id), swarm.run("cancel", run_id, "--json")
    assert (first.returncode, first.stdout) == (0, f"{run_id} cancelled: the operator cancelled it\n"), first.stderr
    assert (again.returncode, json.loads(again.stdout)["verdict"]) == (0, "cancelled")
    assert not running(check)
    assert swarm.run("cancel", "run-nobody").returncode == 3


def running(command: str) -> bool:
    wanted = "\0".join(command.split()).encode() + b"\0"
    return any(command_line(folder) == wanted for folder in Path("/proc").iterdir() if folder.name.isdigit())


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


async def foreign_producer(nats_url: str, trace_id: str) -> dict[str, bytes]:
    """A tool that has only nats-py and the frozen part of the message; returns what it published by event id."""
    client = await nats.connect(nats_url)
    stream = client.jetstream()
    published = {}
    for number in range(FOREIGN_EVENTS):
        event = SwarmEvent(event_id=str(uuid.uuid4()), trace_id=trace_id, span_id=f"{number:016x}", agent_id="foreign")
        event.agent_role = ROLE_ARCHITECT
        event.timestamp.GetCurrentTime()
        event.decision.rationale = f"thought {number}"
        event.decision.confidence_score = 0.5
        published[event.event_id] = event.SerializeToString()
    await asyncio.gather(
        *(stream.publish("swarm.events.architect.decision", raw, timeout=60) for raw in published.values())
    )
    await client.close()
    return published


def test_a_foreign_producers_thousand_events_are_queryable_soon_and_byte_equal(
    swarm: HomeUnderTest,
) -> None:
    status, trace_id = swarm.status(), uuid.uuid4().hex
    published = asyncio.run(foreign_producer(status["nats_url"], trace_id))
    last = time.monotonic()
    with ApiClient(status["api_url"], Path(status["token_file"]).read_text().strip()) as api:

        def all_there() -> bool:
            return len(api.events(run=trace_id, limit=FOREIGN_EVENTS, fields="seq")["data"]) == FOREIGN_EVENTS

        # About one second as a rule; but the machine may be shared and stand still meanwhile.
        eventually(all_there, seconds=60, about="every event is in the answer")
        seconds = time.monotonic() - last
        assert {event["event_id"] for event in api.all_events(run=trace_id)} == set(published)
        assert all(api.raw(event_id) == raw for event_id, raw in list(published.items())[::10])
    print(f"{FOREIGN_EVENTS} foreign events queryable {seconds:.2f} s after the last publish")
