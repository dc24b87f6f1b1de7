"""A run at every sequence: state, content, diff; and the proof that it is whole."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import pytest

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster.cli import execute
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, system_signal
from enchanted.serve.moments.contents import folder_of
from enchanted.serve.proof import verify
from enchanted.serve.testing import History, World, scripted


async def test_the_state_at_every_sequence_is_what_the_files_were(world: World, history: History) -> None:
    changed = {stored.seq for stored in history.events if stored.event.HasField("state_change")}
    for seq, expected in history.files.items():
        state = await world.document(f"runs/{history.run}/state", at=seq)
        assert state["at"] == seq
        files = state["workspaces"].get("main", {"files": []})["files"]
        assert {file["path"]: file["size"] for file in files} == {path: len(data) for path, data in expected.items()}
        if seq not in changed:
            continue
        for path, data in expected.items():
            document = await world.document(f"runs/{history.run}/state", at=seq, path=path)
            found = document["content"].encode() if document["encoding"] == "utf-8" else _decoded(document["content"])
            assert found == data, (seq, path)
    last = await world.document(f"runs/{history.run}/state")
    assert (last["state"], last["checkpoint"]) == ("rejected", 0)
    assert [task["task_id"] for task in last["tasks"]] == ["t-1"]
    assert {agent["name"] for agent in last["agents"]} == {"orchestrator", "coder-1"}


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)


async def test_a_disk_without_room_delays_what_a_file_holds(world: World) -> None:
    history = await scripted(world, "run-without-room")
    base, first = [one.seq for one in history.events if one.event.state_change.reason in ("base", "merge")][:2]
    path = f"runs/{history.run}/state"
    await world.document(path, at=base, path="a.py")
    objects = folder_of(world.folder / "cache", history.run) / "objects"
    for place in [one for number in range(256) if not (one := objects / f"{number:02x}").exists()]:
        place.write_text("")
    response = await world.get(path, at=first, path="a.py")
    assert (response.status_code, response.json()["code"]) == (503, "content-delayed")
    for place in objects.iterdir():
        if place.is_file():
            place.unlink()
    assert (await world.document(path, at=first, path="a.py"))["content"] == "print('b')\nprint('ü')\n"


async def test_a_file_whose_blob_is_in_no_tree_will_not_come_later(world: World, history: History) -> None:
    draft = SwarmEvent(workspace_id="main")
    draft.state_change.CopyFrom(history.events[1].event.state_change)
    for file in draft.state_change.files:
        file.new_blob = "ab" * 32
    await AgentLog(world.bus, run_id="run-no-blob", role="operator", agent_name="orchestrator").emit(draft)
    await world.stored("run-no-blob", 1)
    response = await world.get("runs/run-no-blob/state", path="a.py")
    assert (response.status_code, response.json()["code"]) == (404, "content-unavailable")


async def test_a_path_or_workspace_that_is_not_there_is_not_found(world: World, history: History) -> None:
    last = history.events[-1].seq
    for parameters, code in (
        ({"path": "nothing"}, "path-not-found"),
        ({"path": "../../etc/passwd"}, "path-not-found"),
        ({"path": "a.py", "workspace": "w"}, "workspace-not-found"),
    ):
        response = await world.get(f"runs/{history.run}/state", at=last, **parameters)
        assert (response.status_code, response.json()["code"]) == (404, code)
    response = await world.get(f"runs/{history.run}/state", workspace="nosuch")
    assert (response.status_code, response.json()["code"]) == (404, "workspace-not-found")
    assert "at the latest sequence" in response.json()["detail"]
    assert (await world.get("runs/nobody/state")).json()["code"] == "run-not-found"
    before = await world.document(f"runs/{history.run}/state", at=history.events[0].seq - 1)
    assert (before["at"], before["workspaces"], before["state"]) == (0, {}, "")


async def test_the_diff_between_two_sequences_turns_one_tree_into_the_other(world: World, history: History) -> None:
    seqs = list(history.files)
    repository = ShadowRepository.open(world.folder / history.run / "repo.git")
    for start, end in [(seqs[0], seqs[-1]), (seqs[1], seqs[5]), (seqs[4], seqs[-3]), (seqs[-3], seqs[-1])]:
        response = await world.get(f"runs/{history.run}/diff", **{"from": start, "to": end})
        assert response.headers["content-type"].startswith("text/x-diff")
        old, new = response.headers["x-enchanted-from-tree"], response.headers["x-enchanted-to-tree"]
        assert await repository.apply(old, response.text) == new
    same = await world.get(f"runs/{history.run}/diff", **{"from": seqs[1], "to": seqs[1]})
    assert (same.status_code, same.text) == (200, "")


async def test_the_diff_to_an_earlier_sequence_is_the_way_back(
    world: World, history: History, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    seqs = list(history.files)
    repository = ShadowRepository.open(world.folder / history.run / "repo.git")
    access = ["--url", world.url, "--token-file", str(world.token_file)]
    for start, end in [(0, seqs[-1]), (seqs[1], seqs[-3]), (seqs[4], seqs[6]), (seqs[-3], seqs[-1])]:
        there = await world.get(f"runs/{history.run}/diff", **{"from": start, "to": end})
        back = await world.get(f"runs/{history.run}/diff", **{"from": end, "to": start})
        assert (there.status_code, back.status_code) == (200, 200), back.text
        old, new = (there.headers[f"x-enchanted-{side}-tree"] for side in ("from", "to"))
        assert (back.headers["x-enchanted-from-tree"], back.headers["x-enchanted-to-tree"]) == (new, old)
        begun = old or repository.empty_tree
        assert await repository.apply(new, back.text) == begun
        assert await repository.apply(await repository.apply(new, back.text), there.text) == new
        assert (await repository.diff(new, begun)).text == back.text
        command = ["diff", history.run, "--from", str(end), "--to", str(start), *access]
        assert await asyncio.to_thread(execute, command) == 0
        assert capfdbinary.readouterr().out == back.content
    missing = await world.get(f"runs/{history.run}/diff", **{"from": seqs[-1], "to": 0, "workspace": "nosuch"})
    assert (missing.status_code, missing.json()["code"]) == (404, "workspace-not-found")


async def test_an_answer_has_a_strong_etag_and_is_not_sent_twice(world: World, history: History) -> None:
    of_run = ("", "/state", "/diff?from=0", "/history?path=a.py", "/blame?path=a.py")
    event = history.events[0].event.event_id
    for url in (*(f"/api/v1/runs/{history.run}{path}" for path in of_run), f"/api/v1/events/{event}/raw"):
        first = await world.http.get(url)
        tag = first.headers["etag"]
        assert tag == f'"{sha256_hex(first.content)}"'
        for known in (f'"x", {tag}', f"W/{tag}", "*"):
            again = await world.http.get(url, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert (await world.http.get(url, headers={"If-None-Match": f'"x{tag[1:]}'})).status_code == 200


async def test_the_etag_of_an_open_run_moves(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-open", role="coder", agent_name="coder-1")
    tags = set()
    for count in (1, 2):
        await log.emit(system_signal(status="HEALTHY"))
        await world.stored("run-open", count)
        tags.add((await world.get("runs/run-open")).headers["etag"])
    assert len(tags) == 2


async def test_an_answer_from_before_a_row_came_in_behind_later_ones_is_not_taken_for_the_whole(world: World) -> None:
    history = await scripted(world, "run-late")
    last = [stored for stored in history.events if stored.event.HasField("state_change")][-1].seq
    late = {"run": history.run, "seq": last}
    row = "FROM events FINAL WHERE run = {run:String} AND stream_seq = {seq:UInt64}"
    await world.table.command(f"CREATE TABLE late ENGINE = Memory AS SELECT * {row}", parameters=late)
    await world.table.command(f"DELETE {row.replace(' FINAL', '')}", parameters=late)
    url = f"/api/v1/runs/{history.run}/state?at={last}"
    early = await world.http.get(url)
    assert early.json()["at"] < last
    await world.table.command("INSERT INTO events SELECT * FROM late")
    await world.table.command("DROP TABLE late")
    then = await world.http.get(url, headers={"If-None-Match": early.headers["etag"]})
    assert (then.status_code, then.json()["at"]) == (200, last)


async def test_a_whole_history_is_intact_and_complete(world: World, history: History) -> None:
    verdict = await world.document(f"runs/{history.run}/verify")
    assert (verdict["intact"], verdict["complete"], verdict["closed"]) == (True, True, True)
    assert verdict["checked"] == verdict["stream"]["events"] == len(history.events)


async def tamper(world: World, stored: StoredEvent, run: str, raw: bytes, sha256: str) -> None:
    """Replace a row as somebody with the writer's password could."""
    parameters = {"run": run, "seq": stored.seq, "raw": raw.hex(), "sha256": sha256}
    await world.table.command(
        "INSERT INTO events "
        "SELECT * REPLACE (unhex({raw:String}) AS body, 0 AS cut_at, unhex({sha256:String}) AS sha256) "
        "FROM events FINAL WHERE run = {run:String} AND stream_seq = {seq:UInt64}",
        parameters=parameters,
    )


async def told(world: World, run: str) -> int:
    """The exit code of `enchanted verify`."""
    command = ["verify", run, "--url", world.url, "--token-file", str(world.token_file)]
    return await asyncio.to_thread(execute, command)


async def test_verify_names_a_tampered_row(world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for number, hide in enumerate((False, True)):
        run = f"run-tampered-{number}"
        log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
        stored = await log.emit(
            *(decision(context_hash="", trigger="", rationale=f"thought {n}", action={}) for n in range(5))
        )
        await world.stored(run, 5)
        victim = stored[2]
        altered = victim.raw.replace(b"thought 2", b"thought X")
        await tamper(world, victim, run, altered, sha256_hex(altered) if hide else sha256_hex(victim.raw))
        verdict = await world.document(f"runs/{run}/verify")
        assert verdict["intact"] is False
        assert verdict["first_bad"]["seq"] == victim.seq
        assert verdict["stream"]["differing"] == [victim.seq]
        raw = await world.get(f"events/{victim.event.event_id}/raw")
        shown = await world.document(f"events/{victim.event.event_id}")
        state = await world.get(f"runs/{run}/state")
        if hide:
            assert raw.content == altered
        else:
            assert (raw.status_code, raw.json()["code"]) == (500, "event-corrupted")
            assert (state.status_code, state.json()["code"]) == (500, "event-corrupted")
            assert shown["corrupted"] is True
        assert await told(world, run) == 1
        assert b"NOT INTACT" in capfdbinary.readouterr().out


async def test_verify_waits_for_what_the_stream_took_in_just_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "FLUSH_GRACE", timedelta(minutes=1))
    log = AgentLog(world.bus, run_id="run-fresh", role="coder", agent_name="coder-1")
    await log.emit(system_signal(status="STARTING"))
    await world.stored("run-fresh", 1)
    for _ in range(3):
        await log.emit(system_signal(status="HEALTHY"), system_signal(status="HEALTHY"))
        verdict = await world.document("runs/run-fresh/verify")
        assert (verdict["intact"], verdict["complete"]) == (True, True)
        assert verdict["checked"] == log.head.seq


async def test_a_tool_that_joins_a_run_from_a_plain_subject_is_part_of_the_proof(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-joined", role="coder", agent_name="coder-1")
    await log.emit(system_signal(status="STARTING"))
    event = decision(context_hash="", trigger="", rationale="from outside", action={})
    event.event_id, event.run_id, event.agent_id = "joined-1", "run-joined", "go-tool"
    await world.bus.publisher.publish(
        Outgoing(subject="swarm.events.operator.decision", payload=event.SerializeToString(), event_id="joined-1")
    )
    await log.emit(system_signal(status="STOPPING"))
    await world.stored("run-joined", 3)
    verdict = await world.document("runs/run-joined/verify")
    assert (verdict["intact"], verdict["complete"], verdict["checked"]) == (True, True, 3)
    assert verdict["stream"]["events"] == 3


async def copied(world: World, run: str, seq: int, **columns: str) -> None:
    """Put a copy of a row in, with other values, as somebody with the writer's password could."""
    changed = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    await world.table.command(
        f"INSERT INTO events SELECT * REPLACE ({changed}) FROM "
        "(SELECT * FROM events FINAL WHERE run = {run:String} AND stream_seq = {seq:UInt64})",
        parameters={"run": run, "seq": seq},
    )


async def test_a_row_beyond_the_end_of_the_stream_is_not_taken_for_one_that_came_meanwhile(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-forged-beyond", role="coder", agent_name="coder-1")
    stored = await log.emit(*(system_signal(status="HEALTHY", detail=f"at {n}") for n in range(3)))
    await world.stored("run-forged-beyond", 3)
    altered = stored[1].raw.replace(b"at 1", b"at X")
    await copied(
        world, "run-forged-beyond", stored[1].seq, stream_seq="toUInt64(1000000000)", event_id="'forged'",
        body=f"unhex('{altered.hex()}')", cut_at="0", sha256=f"unhex('{sha256_hex(altered)}')",
    )  # fmt: skip
    verdict = await world.document("runs/run-forged-beyond/verify")
    assert (verdict["intact"], verdict["first_bad"]["seq"]) == (False, 1_000_000_000)


async def test_a_row_that_is_altered_and_dated_back_before_the_stream_is_held_against_it(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-dated-back", role="coder", agent_name="coder-1")
    stored = await log.emit(*(system_signal(status="HEALTHY", detail=f"at {n}") for n in range(3)))
    await world.stored("run-dated-back", 3)
    victim = stored[-1]
    altered = victim.raw.replace(b"at 2", b"at X")
    await world.table.command(
        "DELETE FROM events WHERE run = 'run-dated-back' AND stream_seq = {seq:UInt64}", parameters={"seq": victim.seq}
    )
    await copied(
        world, "run-dated-back", stored[0].seq, stream_seq=f"toUInt64({victim.seq})", event_id="'other'",
        body=f"unhex('{altered.hex()}')", cut_at="0", sha256=f"unhex('{sha256_hex(altered)}')",
        stream_time="stream_time - INTERVAL 1 DAY",
    )  # fmt: skip
    verdict = await world.document("runs/run-dated-back/verify")
    assert (verdict["intact"], verdict["stream"]["differing"]) == (False, [victim.seq])


async def test_verify_names_a_missing_row(world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = "run-thinned"
    log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
    stored = await log.emit(*(system_signal(status="HEALTHY") for _ in range(4)))
    await world.stored(run, 4)
    victim = stored[1].seq
    await world.table.command(
        "DELETE FROM events WHERE run = {run:String} AND stream_seq = {seq:UInt64}",
        parameters={"run": run, "seq": victim},
    )
    verdict = await world.document(f"runs/{run}/verify")
    assert (verdict["complete"], verdict["stream"]["only_in_stream"]) == (False, [victim])
    assert verdict["missing"][0]["agent_id"] == log.agent_id
    assert await told(world, run) == 1
    assert b"NOT COMPLETE" in capfdbinary.readouterr().out
