"""Runs whose models answer over HTTP: what they write is checked, merged or reported, and their absence is told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.repository.git import Git
from enchanted.bus.testing import free_port
from enchanted.cluster.testing import HomeUnderTest
from enchanted.cluster.testing_servers import Answer, ModelServer

pytestmark = pytest.mark.timeout(300)

Repository = Callable[..., Git]

SHOP = 'import os\n\n\ndef status(order):\n    return "open" if order else "closed"\n'
BAD = 'def status(order):\n    return "open" if order else "shut"\n'
SHELF = 'FIRST = "?"\n' + "".join(f"LINE_{number} = {number}\n" for number in range(9)) + 'LAST = "?"\n'
WHY = "the script of the test says so"


def begin(home: HomeUnderTest, repo: Path, *arguments: str) -> subprocess.Popen[str]:
    return home.popen("run", "tidy this up", "--repo", str(repo), "--json", *arguments)


def verdict_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        output, errors = process.communicate(timeout=240)
    assert output, errors
    document: dict[str, Any] = json.loads(output)
    assert process.returncode == (0 if document["verdict"] == "merged" else 1)
    return document


def events(home: HomeUnderTest, run_id: str, *filters: str) -> list[dict[str, Any]]:
    lines = home.run("events", run_id, "--output", "ndjson", *filters).stdout.splitlines()
    return [json.loads(line) for line in lines]


def edit(path: str, search: str, replace: str) -> Answer:
    return {"choice": "edit", "rationale": WHY, "path": path, "search": search, "replace": replace}


def submit() -> Answer:
    return {"choice": "submit", "rationale": WHY}


def plan(*tasks: tuple[str, str]) -> Callable[[str], Answer]:
    written = [{"title": goal, "goal": goal, "files": [path]} for goal, path in tasks]
    return lambda _: {"rationale": WHY, "tasks": written}


def test_a_patch_that_passes_the_linter_and_breaks_the_test_is_rejected_by_the_reviewers_own_run(
    swarm: HomeUnderTest, models: ModelServer, repository: Repository, tmp_path: Path
) -> None:
    test = 'from shop import status\n\nassert status(0) == "closed"\n'
    git = repository("shop", {"shop.py": SHOP, "test_shop.py": test})
    models.scripts = {
        "architect": plan(("remove what is not used", "shop.py")),
        "coder": lambda prompt: edit("shop.py", SHOP, BAD) if "import os\n" in prompt else submit(),
    }
    checks = ("--check", "ruff check .", "--check", "python test_shop.py")
    done = verdict_of(begin(swarm, tmp_path / "shop", "--model", models.url, *checks))

    assert done["verdict"] == "rejected", done
    assert "ruff check ." in done["reason"]
    assert git.run("branch", "--list", "enchanted/*") == b""
    rejections = [event["decision"]["rationale"] for event in events(swarm, done["run_id"], "--role", "reviewer",
                                                                     "--kind", "decision")]  # fmt: skip
    assert set(rejections) == {"check 'python test_shop.py' passed before and fails now"}
    runs = events(swarm, done["run_id"], "--role", "reviewer", "--kind", "tool_call")
    outcomes = {(call["tool_call"].get("arguments"), call["tool_call"].get("exit_code", 0)) for call in runs}
    assert ('{"command":"python test_shop.py"}', 1) in outcomes
    assert all(event["state_change"]["reason"] != "merge" for event in changes(swarm, done["run_id"]))
    assert swarm.run("verify", done["run_id"]).returncode == 0


def changes(home: HomeUnderTest, run_id: str) -> list[dict[str, Any]]:
    return events(home, run_id, "--kind", "state_change")


def test_coders_that_edit_one_file_at_once_are_merged_or_reported_never_overwritten(
    swarm: HomeUnderTest, models: ModelServer, repository: Repository, tmp_path: Path
) -> None:
    git = repository("shelf", {"shelf.py": SHELF})

    def code(prompt: str) -> Answer:
        task = re.findall(r"Task: name the (first|last) (\w+)", prompt)[0]
        line = f'{task[0].upper()} = "?"\n'
        return edit("shelf.py", line, line.replace("?", task[1])) if line in prompt else submit()

    goals = ("name the first lamp", "name the first desk", "name the last door")
    models.scripts = {"architect": plan(*((goal, "shelf.py") for goal in goals)), "coder": code}
    done = verdict_of(begin(swarm, tmp_path / "shelf", "--model", models.url, "--coders", "3"))

    assert done["verdict"] == "merged", done
    lines = git.run("show", f"{done['branch']}:shelf.py").decode().splitlines()
    assert lines[0] in ('FIRST = "lamp"', 'FIRST = "desk"')
    assert lines[1:-1] == SHELF.splitlines()[1:-1]
    assert lines[-1] == 'LAST = "door"'
    steps = [event["run_transition"] for event in events(swarm, done["run_id"], "--kind", "run_transition")]
    conflicts = [step["reason"] for step in steps if step["to_state"] == "pending" and step.get("from_state")]
    assert conflicts == ["conflicts with work merged meanwhile in shelf.py"]


@pytest.fixture
def absent_models(models: ModelServer) -> dict[str, tuple[str, str]]:
    """Model URLs with nothing behind them, and what a run must say about each."""
    down = f"http://127.0.0.1:{free_port()}/v1"
    return {
        "down": (f"openai:{down}#test", f"model server down: no connection to {down}"),
        "misnamed": (models.url.replace("#test", "#tset"), "The model `tset` does not exist."),
        "nowhere": ("vllm:/nowhere", "model '/nowhere' was not found in /nowhere"),
    }


def test_a_model_that_is_not_there_fails_the_run_by_its_name(
    swarm: HomeUnderTest, absent_models: dict[str, tuple[str, str]], repository: Repository, tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {"a.py": "import os\n", "b.py": "import os\n"}
    running = {}
    for name, (url, _) in absent_models.items():
        repository(name, files)
        running[name] = begin(swarm, tmp_path / name, "--model", url)
    for name, process in running.items():
        done = verdict_of(process)
        assert done["verdict"] == "failed", done
        assert absent_models[name][1] in done["reason"]
        assert json.loads(swarm.run("run-info", done["run_id"], "--json").stdout)["closed"]
        assert swarm.run("verify", done["run_id"]).returncode == 0
