"""The time machine as a user types it: play, restore, undo, fork."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.repository.git import Git
from enchanted.cluster.testing import HomeUnderTest, eventually

pytestmark = pytest.mark.timeout(300)

Repository = Callable[..., Git]


@pytest.fixture(scope="module")
def merged(swarm: HomeUnderTest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that is merged, its events, and its repository."""
    from enchanted.actors.testing import make_repository

    folder = tmp_path_factory.mktemp("merged") / "shop"
    make_repository(folder, {"shop.py": "import os\nimport sys\n\nprint(1)\n", "old.py": "import re\n\nprint(2)\n"})
    document = json.loads(swarm.run("run", "make the linter pass", "--repo", str(folder), "--json").stdout)
    assert document["verdict"] == "merged"

    def log() -> list[dict[str, Any]]:
        listed = swarm.run("events", document["run_id"], "--output", "ndjson").stdout
        return [json.loads(line) for line in listed.splitlines()]

    # The orchestrator's last sign of life comes after its verdict.
    left = "the orchestrator has left"
    eventually(lambda: "STOPPING" in str(log()[-1].get("system_signal")), seconds=60, about=left)
    return {**document, "log": log()}


def main_changes(run: dict[str, Any]) -> list[dict[str, Any]]:
    found = [event for event in run["log"] if event["kind"] == "state_change" and event["workspace_id"] == "main"]
    assert len(found) > 1
    return found


def test_a_run_is_played_again_in_its_order(swarm: HomeUnderTest, merged: dict[str, Any]) -> None:
    played = swarm.run("play", merged["run_id"], "--speed", "10000", "--output", "ndjson").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in played] == [event["seq"] for event in merged["log"]]
    middle = merged["log"][len(merged["log"]) // 2]["seq"]
    later = swarm.run("play", merged["run_id"], "--speed", "10000", "--from", str(middle)).stdout.splitlines()
    assert len(later) == sum(event["seq"] >= middle for event in merged["log"])
    assert str(middle) in later[0]


def test_a_state_is_previewed_restored_and_put_back(
    swarm: HomeUnderTest, merged: dict[str, Any], tmp_path: Path
) -> None:
    at, into = str(main_changes(merged)[0]["seq"]), tmp_path / "into"
    preview = swarm.run("restore", merged["run_id"], "--at", at, "--into", str(into))
    assert (preview.returncode, into.exists()) == (2, False)
    assert "write shop.py" in preview.stderr
    swarm.run("restore", merged["run_id"], "--at", at, "--into", str(into), "--yes")
    assert (into / "shop.py").read_text().startswith("import os")
    (into / "notes.txt").write_text("mine")
    swarm.run("restore", merged["run_id"], "--into", str(into), "--yes")
    assert "import os" not in (into / "shop.py").read_text()
    assert (into / "notes.txt").read_text() == "mine"
    preview = swarm.run("restore", "--back", "--into", str(into))
    assert (preview.returncode, "import os" in (into / "shop.py").read_text()) == (2, False)
    assert "write shop.py" in preview.stderr
    swarm.run("restore", "--back", "--into", str(into), "--yes")
    assert (into / "shop.py").read_text().startswith("import os")
    (into / "shop.py").write_text("work of a day")
    refused = swarm.run("restore", merged["run_id"], "--into", str(into), "--yes")
    assert (refused.returncode, (into / "shop.py").read_text()) == (2, "work of a day")
    assert "--force" in refused.stderr


def test_the_last_valid_state_of_a_merged_run_is_what_was_merged_and_the_named_command_restores_it(
    swarm: HomeUnderTest, merged: dict[str, Any], tmp_path: Path
) -> None:
    found = swarm.run("recover", merged["run_id"], "--json")
    document = json.loads(found.stdout)
    last = main_changes(merged)[-1]
    assert (found.returncode, document["fault"], document["later"]) == (0, None, [])
    assert (document["valid"]["seq"], document["valid"]["why_not"]) == (last["seq"], "")
    restore, fork = document["next"]
    assert fork.startswith(f"enchanted fork {merged['run_id']} --at ")
    swarm.run(*restore.removeprefix("enchanted ").replace("FOLDER", str(tmp_path / "into")).split(), "--yes")
    git = Git(cwd=Path(merged["repo"]))
    assert (tmp_path / "into" / "shop.py").read_bytes() == git.run("show", f"{merged['branch']}:shop.py")


def test_a_state_is_restored_onto_a_branch_of_the_users(swarm: HomeUnderTest, merged: dict[str, Any]) -> None:
    at = str(main_changes(merged)[-1]["seq"])
    swarm.run("restore", merged["run_id"], "--at", at, "--branch", "as-it-was", "--yes")
    git = Git(cwd=Path(merged["repo"]))
    assert git.run("rev-parse", "as-it-was^{tree}") == git.run("rev-parse", f"{merged['branch']}^{{tree}}")
    assert git.run("status", "--porcelain") == b""


def test_an_undone_change_is_gone_from_state_and_branch(swarm: HomeUnderTest, merged: dict[str, Any]) -> None:
    change = main_changes(merged)[-1]
    git = Git(cwd=Path(merged["repo"]))
    before = git.run("rev-parse", merged["branch"])
    document = json.loads(swarm.run("undo", merged["run_id"], change["event_id"], "--yes", "--json").stdout)
    assert document["tree"] == change["state_change"]["previous_state_hash"]
    assert git.run("rev-parse", f"{merged['branch']}^") == before
    shown = git.run("show", f"{merged['branch']}:{document['files'][0]}").decode()
    assert shown.startswith("import")
    again = swarm.run("undo", merged["run_id"], change["event_id"], "--yes")
    assert (again.returncode, "nothing of this change is left" in again.stderr) == (2, True)
    redone = json.loads(swarm.run("undo", merged["run_id"], document["undo_event_id"], "--yes", "--json").stdout)
    assert redone["tree"] == change["state_change"]["new_state_hash"]
    assert swarm.run("verify", merged["run_id"]).returncode == 0


def test_a_fork_from_the_middle_is_a_run_of_its_own(swarm: HomeUnderTest, merged: dict[str, Any]) -> None:
    middle = next(
        event["seq"] for event in merged["log"] if event.get("run_transition", {}).get("to_state") == "working"
    )
    document = json.loads(swarm.run("fork", merged["run_id"], "--at", str(middle), "--json").stdout)
    assert document["at"] == middle
    assert document.keys() == {"run_id", "at", "state", "files", "tasks"}
    preview = swarm.run("fork", merged["run_id"], "--at", str(middle))
    assert (preview.returncode, "working" in preview.stderr) == (2, True)
    document = json.loads(
        swarm.run("fork", merged["run_id"], "--at", str(middle), "--coders", "1", "--yes", "--json").stdout
    )
    assert (document["verdict"], document["run_id"] != merged["run_id"]) == ("merged", True)
    info = json.loads(swarm.run("run-info", document["run_id"], "--json").stdout)
    assert (info["request"]["forked_from"], info["request"]["forked_at"]) == (merged["run_id"], middle)
    git = Git(cwd=Path(merged["repo"]))
    assert git.run("rev-parse", f"{document['branch']}^{{tree}}") == git.run(
        "rev-parse", f"{merged['branch']}^{{tree}}"
    )
    early = swarm.run("fork", merged["run_id"], "--at", str(merged["log"][0]["seq"]), "--yes")
    assert (early.returncode, "not stored yet" in early.stderr) == (2, True)


def test_a_fork_is_compared_with_its_parent_from_where_it_began(swarm: HomeUnderTest, merged: dict[str, Any]) -> None:
    at = merged["log"][-1]["seq"]
    forked = json.loads(
        swarm.run("fork", merged["run_id"], "--at", str(at), "--check", "ruff check .", "--yes", "--json").stdout
    )
    document = json.loads(swarm.run("compare", merged["run_id"], forked["run_id"], "--json").stdout)
    assert document["forked_at"] == at
    assert document["a"]["state"] == document["b"]["state"] == "merged"
    parted = [document["divergence"][side] for side in ("a", "b") if document["divergence"][side]]
    assert min(event["seq"] for event in parted) > at
    assert document["files_differing"] == 0
    same = json.loads(swarm.run("compare", merged["run_id"], merged["run_id"], "--json").stdout)
    assert (same["divergence"], same["files"]) == (None, [])
    signals = sum(event["kind"] == "system_signal" for event in merged["log"])
    assert same["equal_events"] >= len(merged["log"]) - signals
    table = swarm.run("compare", merged["run_id"], forked["run_id"])
    assert forked["run_id"] in table.stdout + table.stderr
    assert swarm.run("compare", merged["run_id"], "run-nobody").returncode == 3
