"""The acting verbs through the API: restore, undo, fork."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.actors.repository.git import Git
from enchanted.actors.repository.restore import MARK
from enchanted.actors.rerun import file
from enchanted.actors.rerun.importing import import_recording
from enchanted.cluster import cli
from enchanted.cluster.commands import importing
from enchanted.cluster.commands.importing import RECORDED
from enchanted.cluster.errors import CommandFailed
from enchanted.schemas.events import StoredEvent
from enchanted.serve.client import ApiClient
from enchanted.serve.testing import History, World, scripted, until


async def act(world: World, run: str, verb: str, **body: Any) -> httpx.Response:
    return await world.http.post(f"/api/v1/runs/{run}/{verb}", json=body)


def on_disk(folder: Path, *, whole: bool = False) -> dict[str, bytes]:
    """The files of a folder, without what restores left for themselves."""
    paths = [path for path in folder.rglob("*") if (whole or MARK not in path.parts) and not path.is_dir()]
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in paths
    }


def changes(history: History) -> list[StoredEvent]:
    return [stored for stored in history.events if stored.event.HasField("state_change")]


async def test_every_state_of_a_run_can_be_restored_into_a_folder(
    world: World, history: History, tmp_path: Path
) -> None:
    for stored in changes(history):
        preview = await act(world, history.run, "restores", at=stored.seq, into=str(tmp_path / "x"), dry_run=True)
        done = await act(world, history.run, "restores", at=stored.seq, into=str(tmp_path / "x"))
        assert (preview.status_code, done.status_code) == (200, 200), done.text
        assert done.json()["write"] == preview.json()["write"]
        assert on_disk(tmp_path / "x") == history.files[stored.seq]


async def test_a_dry_run_writes_nothing(world: World, history: History, tmp_path: Path) -> None:
    answer = await act(world, history.run, "restores", into=str(tmp_path / "x"), dry_run=True)
    assert answer.json()["write"]
    assert not (tmp_path / "x").exists()


async def test_work_in_the_folder_is_refused_and_kept_when_told(world: World, history: History, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("mine")
    at = changes(history)[0].seq
    answer = await act(world, history.run, "restores", at=at, into=str(tmp_path))
    assert (answer.status_code, answer.json()["code"]) == (409, "restore-refused")
    assert (tmp_path / "a.py").read_text() == "mine"
    forced = await act(world, history.run, "restores", at=at, into=str(tmp_path), force=True)
    assert forced.json()["dirty"] == ["a.py"]
    assert on_disk(Path(forced.json()["snapshot"], "old"), whole=True) == {"a.py": b"mine"}
    assert on_disk(tmp_path) == history.files[at]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"into": ""}, 422),
        ({"into": "relative"}, 422),
        ({"into": "/x", "branch": "b"}, 422),
        ({"into": "/proc/nowhere/x"}, 409),
        ({"into": "/etc/hostname"}, 409),
        ({"branch": "b", "repo": "/nowhere"}, 422),
        ({"into": "/etc/hostname/x"}, 409),
        ({"into": "/proc/foo"}, 409),
        ({"branch": "b", "repo": ""}, 422),
        ({"branch": "a..b"}, 409),
        ({"into": "/tmp/x", "workspace": "nosuch"}, 404),
        ({"into": "/tmp/x", "at": -1}, 422),
        ({"into": "/tmp/x", "more": 1}, 422),
    ],
)
async def test_bad_places_are_refused_without_harm(
    world: World, history: History, body: dict[str, Any], status: int
) -> None:
    for dry_run in ({"dry_run": True}, {}):
        answer = await act(world, history.run, "restores", **body, **dry_run)
        assert answer.status_code == status, answer.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_somebody_planted_as_records_of_restores_is_refused_and_keeps_nobody_waiting(
    world: World, history: History, tmp_path: Path, dry_run: bool
) -> None:
    (tmp_path / MARK).mkdir()
    state = tmp_path / MARK / "state.json"
    os.mkfifo(state)
    answers = [await act(world, history.run, "restores", into=str(tmp_path), dry_run=dry_run) for _ in range(8)]
    state.unlink()
    for text in ("[]", "[" * 100_000, '{"files": []}', '{"files": {"a": 5}}', '{"done": 5}'):
        state.write_text(text)
        answers.append(await act(world, history.run, "restores", into=str(tmp_path), dry_run=dry_run))
    assert {answer.status_code for answer in answers} == {409}
    assert all("state.json is damaged; move it" in answer.json()["detail"] for answer in answers)


async def test_a_state_before_the_run_began_cannot_be_restored(world: World, history: History, tmp_path: Path) -> None:
    answer = await act(world, history.run, "restores", at=history.events[0].seq - 1, into=str(tmp_path / "x"))
    assert answer.status_code == 404
    assert (await act(world, "nobody", "restores", into=str(tmp_path / "x"))).status_code == 404


async def test_an_undone_change_is_gone_and_later_work_stays_and_undoing_that_brings_it_back(world: World) -> None:
    history = await scripted(world, "run-undo")
    binary = next(one for one in changes(history) if one.event.state_change.files[0].path == "data.bin")
    before = await world.document(f"runs/{history.run}/state")
    tag = (await world.get(f"runs/{history.run}/state")).headers["etag"]
    preview = (await act(world, history.run, "undos", event_id=binary.event.event_id, dry_run=True)).json()
    done = await act(world, history.run, "undos", event_id=binary.event.event_id)
    assert done.status_code == 200, done.text
    document = done.json()
    assert (
        (document["files"], document["patch"]) == (["data.bin"], preview["patch"]) == (["data.bin"], document["patch"])
    )
    await world.stored(history.run, len(history.events) + 1)
    after = await world.get(f"runs/{history.run}/state")
    files = {file["path"]: file["blob"] for file in after.json()["workspaces"]["main"]["files"]}
    kept = {file["path"]: file["blob"] for file in before["workspaces"]["main"]["files"]}
    assert files == {path: blob for path, blob in kept.items() if path != "data.bin"}
    assert after.headers["etag"] != tag
    again = await act(world, history.run, "undos", event_id=document["undo_event_id"])
    assert again.json()["tree"] == before["workspaces"]["main"]["tree"]
    await world.stored(history.run, len(history.events) + 2)
    verdict = await world.document(f"runs/{history.run}/verify")
    assert (verdict["intact"], verdict["complete"]) == (True, True)


async def test_what_cannot_be_undone_says_why(world: World, history: History) -> None:
    found = changes(history)
    for event_id, status, word in (
        (history.events[0].event.event_id, 409, "no change of files"),
        ("nosuch", 404, ""),
        (found[4].event.event_id, 409, "nothing of this change is left"),
        (found[0].event.event_id, 409, "cannot be reversed"),
    ):
        answer = await act(world, history.run, "undos", event_id=event_id)
        assert answer.status_code == status, answer.text
        assert word in answer.json()["detail"]


async def test_two_undos_at_once_do_not_both_win(world: World) -> None:
    history = await scripted(world, "run-undo-twice")
    binary = next(one for one in changes(history) if one.event.state_change.files[0].path == "data.bin")
    answers = await asyncio.gather(
        *(act(world, history.run, "undos", event_id=binary.event.event_id) for _ in range(3))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]


async def test_a_branch_that_was_checked_out_during_an_undo_takes_the_next_one_too(world: World) -> None:
    history = await scripted(world, "run-undo-branch", placed=True)
    git, branch = Git(cwd=world.folder / history.run / "user"), f"enchanted/{history.run}"
    assert (await act(world, history.run, "restores", branch=branch)).status_code == 200
    git.run("checkout", "-q", branch)
    text, binary = (one.event.event_id for one in changes(history)[1:3])
    first = await act(world, history.run, "undos", event_id=binary)
    assert f"{branch} is as it was: the branch is checked out" in first.json()["branch"]
    git.run("checkout", "-q", "-")
    second = await act(world, history.run, "undos", event_id=text)
    assert f"{branch} is at " in second.json()["branch"], second.text
    assert set(committed(git, branch)) == {"a.py", "dos.txt"}
    assert committed(git, branch)["a.py"][1] == b"print('a')\n"
    third = await act(world, history.run, "undos", event_id=second.json()["undo_event_id"])
    assert f"{branch} is at " in third.json()["branch"], third.text


def committed(git: Git, commit: str) -> dict[str, tuple[str, bytes]]:
    """Mode and content of each file of a commit."""
    found = {}
    for record in git.run("ls-tree", "-r", "-z", commit).split(b"\0")[:-1]:
        head, name = record.split(b"\t")
        mode, _, blob = head.decode().split()
        found[name.decode()] = mode, git.run("cat-file", "blob", blob)
    return found


async def test_a_state_goes_onto_a_new_branch_and_the_working_tree_stays(world: World) -> None:
    history = await scripted(world, "run-branch", placed=True)
    user = world.folder / history.run / "user"
    git = Git(cwd=user)
    (user / "a.py").write_text("half a thought")
    (user / "mine.txt").write_text("mine")
    before, head, status = on_disk(user), git.run("rev-parse", "HEAD"), git.run("status", "--porcelain=v2", "--branch")
    files = {name: content for name, content in before.items() if not name.startswith(".git/")}

    for number, stored in enumerate(changes(history)):
        body = {"branch": f"back/{number}", "at": stored.seq}
        preview = await act(world, history.run, "restores", **body, dry_run=True)
        assert preview.status_code == 200, preview.text
        assert not git.run("branch", "--list", body["branch"])
        answer = await act(world, history.run, "restores", **body)
        assert answer.status_code == 200, answer.text
        commit = git.run("rev-parse", f"refs/heads/{body['branch']}")
        assert (answer.json()["commit"], answer.json()["repo"]) == (commit.decode().strip(), str(user))
        assert git.run("rev-parse", f"{body['branch']}^@") == head, "one commit on top of the one the run began with"
        listed = await world.document(f"runs/{history.run}/state", at=stored.seq)
        modes = {one["path"]: one["mode"] for one in listed["workspaces"]["main"]["files"]}
        found = committed(git, body["branch"])
        assert {name: content for name, (_, content) in found.items()} == history.files[stored.seq]
        assert {name: mode for name, (mode, _) in found.items()} == modes

    assert {name: content for name, content in on_disk(user).items() if not name.startswith(".git/")} == files
    assert (git.run("rev-parse", "HEAD"), git.run("status", "--porcelain=v2", "--branch")) == (head, status)


async def test_a_branch_that_holds_something_else_is_left_alone(world: World) -> None:
    history = await scripted(world, "run-branch-taken", placed=True)
    git = Git(cwd=world.folder / history.run / "user")
    git.run("branch", "taken")
    where = git.run("rev-parse", "taken")
    answer = await act(world, history.run, "restores", branch="taken", at=changes(history)[1].seq)
    assert (answer.status_code, answer.json()["code"]) == (409, "restore-refused")
    assert git.run("rev-parse", "taken") == where


async def test_a_log_that_does_not_name_the_commit_it_began_with_goes_onto_no_branch(world: World) -> None:
    history = await scripted(world, "run-placeless")
    user = world.folder / history.run / "user"
    answer = await act(world, history.run, "restores", branch="back", repo=str(user), at=changes(history)[1].seq)
    assert answer.status_code == 409
    assert "no commit" in answer.json()["detail"]
    assert not Git(cwd=user).run("branch", "--list", "back")


async def test_a_fork_is_asked_of_the_swarm_with_what_differs(world: World) -> None:
    history = await scripted(world, "run-not-ours")
    answer = await act(world, history.run, "forks", at=history.events[-1].seq)
    assert (answer.status_code, answer.json()["code"]) == (409, "fork-refused")
    assert (await act(world, "nobody", "forks")).status_code == 404
    assert (await act(world, history.run, "forks", model="nonsense")).status_code == 422


async def test_an_import_asks_for_ids_though_one_of_them_is_left_over(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ASKED", 2)
    recording = await file.load(RECORDED)

    def asked(run: str, events: tuple[StoredEvent, ...]) -> None:
        with ApiClient(world.url, world.token_file.read_text().strip()) as client:
            importing._require_free(replace(recording, run_id=run, events=events), client)

    for number in (1, 2, 3):
        await asyncio.to_thread(asked, history.run, tuple(history.events[:number]))
        with pytest.raises(CommandFailed, match="import"):
            await asyncio.to_thread(asked, "run-other", tuple(history.events[:number]))


async def test_a_fork_is_refused_by_its_preview_where_it_would_be(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = await file.load(RECORDED)
    await import_recording(recording, world.bus)
    await world.stored(recording.run_id, len(recording.events))
    foreign, events = await scripted(world, "run-foreign"), await world.bus.read_run(recording.run_id)
    base = next(one.seq for one in events if one.event.state_change.content_sha256)

    async def forked(run: str, *arguments: str) -> tuple[int, str]:
        where = ["--url", world.url, "--token-file", str(world.token_file)]
        code = await asyncio.to_thread(cli.execute, ["fork", run, *arguments, *where])
        return code, capsys.readouterr().err

    for run, *arguments in (
        (recording.run_id, "--at", "0"),
        (recording.run_id, "--at", f"{base - 1}"),
        (foreign.run,),
        (foreign.run, "--at", f"{foreign.events[0].seq}"),
    ):
        code, said = await forked(run, *arguments)
        assert "this was the preview" not in said
        assert (code, "error: " in said, "remedy: " in said) == (2, True, True), said
    code, said = await forked(recording.run_id, "--at", f"{base}")
    assert (code, "nothing was changed: this was the preview" in said) == (2, True), said
    answer = await act(world, recording.run_id, "forks", at=base, dry_run=True)
    assert (answer.status_code, answer.json()) == (200, {"run_id": "", "url": ""})


async def test_an_empty_path_is_not_the_current_folder(
    world: World, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--url", world.url, "--token-file", str(world.token_file)]
    for arguments in (
        ["restore", history.run, "--into", "", "--yes"],
        ["restore", "--back", "--into", "", "--yes"],
        ["restore", history.run, "--branch", "b", "--repo", "", "--yes"],
        ["fork", history.run, "--repo", "", "--yes"],
    ):
        assert await asyncio.to_thread(cli.execute, [*arguments, *where]) == 2
        assert "an empty path names no folder" in capsys.readouterr().err
    assert on_disk(tmp_path, whole=True) == {}
    assert await asyncio.to_thread(cli.execute, ["restore", history.run, "--into", ".", "--yes", *where]) == 0
    assert on_disk(tmp_path) == history.files[changes(history)[-1].seq]


async def test_nothing_is_left_in_the_table_by_dry_runs(world: World, history: History, tmp_path: Path) -> None:
    count = (await world.document(f"runs/{history.run}"))["events"]
    await act(world, history.run, "restores", into=str(tmp_path / "y"))

    async def same() -> bool:
        return bool((await world.document(f"runs/{history.run}"))["events"] == count)

    await until(same)
