"""A recorded run as a user looks at it: `demo --recorded` and `import`, without a model."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.actors.rerun import file
from enchanted.cluster.commands.importing import RECORDED
from enchanted.cluster.testing import HomeUnderTest
from enchanted.schemas.events import SwarmEvent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def recorded(swarm: HomeUnderTest) -> dict[str, Any]:
    done = swarm.run("demo", "--recorded", "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_recorded_demo_is_there_to_be_asked_played_and_verified(
    swarm: HomeUnderTest, recorded: dict[str, Any]
) -> None:
    run = recorded["run_id"]
    assert recorded["imported"] == recorded["events"] > 100
    assert "intact, complete" in swarm.run("verify", run).stdout
    files = json.loads(swarm.run("state", run, "--json").stdout)["workspaces"]["main"]["files"]
    assert "inventory/orders.py" in [one["path"] for one in files]
    played = swarm.run("play", run, "--speed", "100000").stdout.splitlines()
    assert len(played) == recorded["events"]
    assert "equal" in swarm.run("rerun", run).stdout


def test_the_link_opens_the_page_once(swarm: HomeUnderTest, recorded: dict[str, Any]) -> None:
    url, code = re.fullmatch(r"(http://[\d.:]+)/runs/[\w-]+#code=([0-9a-f]+)", recorded["url"]).groups()  # type: ignore[union-attr]
    opened = httpx.post(f"{url}/api/v1/sessions", json={"code": code})
    assert opened.status_code == 200
    headers = {"Authorization": f"Bearer {opened.json()['token']}"}
    assert httpx.get(f"{url}/api/v1/runs/{recorded['run_id']}", headers=headers).json()["state"] == "merged"
    assert httpx.post(f"{url}/api/v1/sessions", json={"code": code}).status_code == 403


def test_importing_again_adds_nothing(swarm: HomeUnderTest, recorded: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy.zip"
    done = json.loads(swarm.run("rerun", recorded["run_id"], "--record", str(copy), "--json").stdout)
    assert (done["run_id"], done["file"], done["events"]) == (recorded["run_id"], str(copy), recorded["events"])
    assert swarm.run("rerun", recorded["run_id"], "--record", "/dev/null").returncode == 0
    full = swarm.run("rerun", recorded["run_id"], "--record", "/dev/full")
    assert (full.returncode, "No space left on device" in full.stderr) == (2, True)
    refused = swarm.run("rerun", recorded["run_id"], "--record", str(tmp_path))
    assert (refused.returncode, "is a folder" in refused.stderr) == (2, True)
    assert [one.name for one in tmp_path.iterdir()] == ["copy.zip"]
    again = json.loads(swarm.run("import", str(copy), "--json").stdout)
    assert (again["run_id"], again["imported"], again["events"]) == (recorded["run_id"], 0, recorded["events"])


def test_a_run_under_another_name_is_refused_before_anything_of_it_is_there(
    swarm: HomeUnderTest, recorded: dict[str, Any], tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.zip"
    loaded = asyncio.run(file.load(RECORDED))
    events = []
    for stored in loaded.events:
        event = SwarmEvent()
        event.CopyFrom(stored.event)
        event.run_id = "run-renamed"
        if not events:
            event.run_transition.details = event.run_transition.details.replace(loaded.run_id, "run-renamed")
        events.append(replace(stored, event=event, raw=event.SerializeToString(deterministic=True)))
    file.save(replace(loaded, run_id="run-renamed", events=tuple(events)), renamed)

    done = swarm.run("import", str(renamed))

    assert done.returncode == 2, done.stderr
    assert "under another run" in done.stderr
    assert swarm.run("run-info", "run-renamed").returncode == 3


def test_a_run_that_was_undone_here_is_there_already(swarm: HomeUnderTest, recorded: dict[str, Any]) -> None:
    changes = json.loads(swarm.run("events", recorded["run_id"], "--kind", "state_change", "--json").stdout)["data"]
    merged = [one["event_id"] for one in changes if one["state_change"]["reason"] == "merge"]
    undone = swarm.run("undo", recorded["run_id"], merged[-1], "--yes")
    assert undone.returncode == 0, undone.stderr
    again = swarm.run("demo", "--recorded")
    assert (again.returncode, "the run was there already" in again.stderr) == (0, True), again.stderr
    live = json.loads(swarm.run("rerun", recorded["run_id"], "--json").stdout)["live_seconds"]
    assert live == pytest.approx(119.8, abs=0.1)


@pytest.mark.parametrize("content", [None, b"", b"PK no zip", b"\x00" * 100_000])
def test_what_is_no_recording_is_refused_with_a_remedy(
    swarm: HomeUnderTest, tmp_path: Path, content: bytes | None
) -> None:
    damaged = tmp_path / "some.zip"
    if content is not None:
        damaged.write_bytes(content)
    done = swarm.run("import", str(damaged))
    assert done.returncode == 2
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr
