"""The fold: facts to state at a sequence."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas import events
from enchanted.schemas.events import FileChange, StoredEvent, SwarmEvent
from enchanted.schemas.fold import Folding, fold


def stored(seq: int, event: SwarmEvent) -> StoredEvent:
    event.agent_id = event.agent_id or "agent"
    return StoredEvent(seq=seq, time=datetime.now(UTC), subject="s", raw=event.SerializeToString(), event=event)


def change(before: str, after: str, *files: FileChange, workspace: str = "main") -> SwarmEvent:
    return events.state_change(
        workspace_id=workspace,
        previous_tree=before,
        new_tree=after,
        patch="",
        files=files,
        reason="edit",
        resource="",
    )


def written(path: str, blob: str) -> FileChange:
    return FileChange(path=path, new_mode="100644", new_blob=blob, size=len(blob))


EDITS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c/d"]), st.one_of(st.none(), st.text("01", min_size=1, max_size=4))),
    max_size=20,
)


@given(EDITS)
def test_the_files_at_every_sequence_are_those_written_so_far(edits: list[tuple[str, str | None]]) -> None:
    log, expected, history = [], dict[str, str](), [dict[str, str]()]
    for number, (path, blob) in enumerate(edits, start=1):
        entry = written(path, blob) if blob else FileChange(path=path, old_blob="x")
        log.append(stored(number, change(f"t{number - 1}", f"t{number}", entry)))
        expected.pop(path, None)
        if blob:
            expected[path] = blob
        history.append(dict(expected))
    for at, files in enumerate(history):
        state = fold(log, at=at)
        space = state.workspaces.get("main")
        assert {f.path: f.blob for f in space.files.values()} == files if space else not files


def test_a_task_workspace_begins_as_the_tree_it_was_branched_from() -> None:
    log = [
        stored(1, change("", "t1", written("a", "1"), written("b", "2"))),
        stored(2, change("t1", "t2", written("a", "9"), workspace="task-1.1")),
    ]
    state = fold(log)
    assert {f.path: f.blob for f in state.workspaces["task-1.1"].files.values()} == {"a": "9", "b": "2"}
    assert state.workspaces["main"].files["a"].blob == "1"


def test_transitions_agents_and_tokens_are_folded() -> None:
    spoken = events.model_call(
        model="m", messages=[], parameters={}, completion="{}", finish_reason="stop", output_tokens=7
    )
    decided = events.decision(context_hash="", trigger="t", rationale="because", action={})
    log = [
        stored(1, events.run_transition(subject="run", from_state="", to_state="created", reason="asked")),
        stored(2, events.run_transition(subject="task", from_state="", to_state="pending", reason="", task_id="t-1")),
        stored(3, spoken),
        stored(4, decided),
        stored(5, events.system_signal(status="HEALTHY")),
    ]
    state = fold(log)
    assert (state.state, state.reason, state.tasks["t-1"].state) == ("created", "asked", "pending")
    agent = state.agents["agent"]
    assert (agent.events, agent.decisions, agent.output_tokens) == (5, 1, 7)
    assert (agent.status, agent.last_decision) == ("HEALTHY", "because")
    assert (agent.context_seq, agent.context_hash) == (3, spoken.model_call.context_hash)
    assert fold(log, at=2).agents["agent"].context_seq == 0


def test_folding_on_from_a_state_equals_folding_everything() -> None:
    log = [stored(n, change(f"t{n - 1}", f"t{n}", written("a", str(n)))) for n in range(1, 6)]
    half = fold(log, at=3)
    assert fold(log[3:], start=half) == fold(log)


def setting(kind: str, name: str, value: str, new_hash: str, workspace: str = "main") -> SwarmEvent:
    event = SwarmEvent(workspace_id=workspace)
    event.state_change.target_type, event.state_change.target_resource = kind, name
    event.state_change.diff_patch, event.state_change.new_state_hash = value, new_hash
    return event


def test_variables_and_schema_objects_hold_what_they_were_last_set_to_and_go_when_removed() -> None:
    log = [
        stored(1, setting("ENV_VAR", "MODE", '"fast"', "h1")),
        stored(2, setting("ENV_VAR", "PORTS", "[1,2]", "h2")),
        stored(3, setting("DB_SCHEMA", "table users", "CREATE TABLE users (id int)", "h3")),
        stored(4, setting("ENV_VAR", "MODE", '{"a":null}', "h4")),
        stored(5, setting("ENV_VAR", "PORTS", "", "")),
        stored(6, setting("ENV_VAR", "MODE", '"other"', "h6", workspace="task-1")),
        stored(7, setting("WHATEVER", "x", "y", "z")),
    ]
    before, after = fold(log, at=3).workspaces["main"], fold(log).workspaces["main"]
    assert {one.name: (one.value, one.seq) for one in before.variables.values()} == {
        "MODE": ('"fast"', 1),
        "PORTS": ("[1,2]", 2),
    }
    assert {one.name: (one.value, one.hash, one.seq) for one in after.variables.values()} == {
        "MODE": ('{"a":null}', "h4", 4)
    }
    assert after.schema_objects["table users"].value == "CREATE TABLE users (id int)"
    assert fold(log).workspaces["task-1"].variables["MODE"].value == '"other"'


def test_a_value_too_large_for_its_event_is_said_to_be_stored_apart() -> None:
    event = setting("ENV_VAR", "BIG", "", "h1")
    event.blobs.add(field="state_change.diff_patch", sha256="0" * 64, size=1 << 20)
    variable = fold([stored(1, event)]).workspaces["main"].variables["BIG"]
    assert (variable.value, variable.stored_apart) == ("", True)


def test_a_workspace_whose_variables_came_first_still_begins_as_the_tree_it_was_branched_from() -> None:
    log = [
        stored(1, change("", "t1", written("a", "1"))),
        stored(2, setting("ENV_VAR", "MODE", "1", "h", workspace="task-1")),
        stored(3, change("t1", "t2", written("b", "2"), workspace="task-1")),
    ]
    assert set(fold(log).workspaces["task-1"].files) == {"a", "b"}


def test_names_that_are_not_utf_8_never_meet_their_readable_forms_or_each_other() -> None:
    names = [("\\xff", "ff"), ("\\xff", ""), ("\\xff", "fe"), ("ÿ", ""), ("b", "zz")]
    entries = [
        FileChange(path=path, path_hex=path_hex, new_mode="100644", new_blob=str(n), size=n)
        for n, (path, path_hex) in enumerate(names)
    ]
    files = fold([stored(1, change("", "t1", *entries))]).workspaces["main"].files
    assert {file.blob: file.raw_path for file in files.values()} == {
        "0": b"\xff", "1": b"\\xff", "2": b"\xfe", "3": "ÿ".encode(), "4": b"b",
    }  # fmt: skip
    gone = FileChange(path="\\xff", path_hex="ff", old_blob="0")
    left = fold([stored(1, change("", "t1", *entries)), stored(2, change("t1", "t2", gone))]).workspaces["main"].files
    assert {file.blob for file in left.values()} == {"1", "2", "3", "4"}


def test_a_state_that_was_given_out_is_not_touched_by_what_is_folded_after_it() -> None:
    folding = Folding()
    folding.add(stored(1, change("", "t1", written("a", "1"))))
    folding.add(stored(2, setting("ENV_VAR", "MODE", "1", "h")))
    given_out = folding.state()
    folding.add(stored(3, change("t1", "t2", written("a", "2"))))
    folding.add(stored(4, setting("ENV_VAR", "MODE", "2", "h2")))
    space = given_out.workspaces["main"]
    assert (space.tree, space.files["a"].blob, space.variables["MODE"].value) == ("t1", "1", "1")


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), st.sampled_from(["a", "b"]), st.sampled_from(["", "1", "2"]), st.booleans()),
        st.tuples(st.just("var"), st.sampled_from(["A", "B"]), st.sampled_from(["", "1", "2"]), st.booleans()),
        st.tuples(st.just("task"), st.sampled_from(["t-1", "t-2"]), st.sampled_from(["x", "y"]), st.booleans()),
    ),
    max_size=30,
)


@given(EVENTS, st.data())
def test_folding_in_two_pieces_anywhere_equals_folding_at_once(
    made: list[tuple[str, str, str, bool]], data: st.DataObject
) -> None:
    log = []
    for number, (kind, name, value, other) in enumerate(made, start=1):
        space = "task-1" if other else "main"
        if kind == "file":
            entry = written(name, value) if value else FileChange(path=name, old_blob="x")
            event = change(f"t{number - 1}", f"t{number}", entry, workspace=space)
        elif kind == "var":
            event = setting("ENV_VAR", name, value, value, workspace=space)
        else:
            event = events.run_transition(subject="task", from_state="", to_state=value, reason="", task_id=name)
        log.append(stored(number, event))
    cut = data.draw(st.integers(0, len(log)))
    assert fold(log[cut:], start=fold(log[:cut])) == fold(log)


def test_a_task_workspace_may_begin_with_a_tree_that_the_main_one_has_left() -> None:
    log = [
        stored(1, change("", "t1", written("a", "1"), written("b", "2"))),
        stored(2, change("t1", "t2", written("a", "3"), FileChange(path="b", old_blob="2"), written("c", "4"))),
        stored(3, change("t2", "t3", written("c", "5"))),
        stored(4, change("t1", "w1", written("d", "6"), workspace="task.1")),
    ]
    files = fold(log).workspaces["task.1"].files
    assert {file.path: file.blob for file in files.values()} == {"a": "1", "b": "2", "d": "6"}


@given(EDITS, st.integers(min_value=0, max_value=20))
def test_folding_on_from_a_state_is_folding_all_at_once(edits: list[tuple[str, str | None]], cut: int) -> None:
    log = [
        stored(number, change(f"t{number - 1}", f"t{number}", written(path, blob or "gone")))
        for number, (path, blob) in enumerate(edits, start=1)
    ]
    log.append(stored(len(log) + 1, change("t0", "w", written("w", "1"), workspace="task")))
    first = fold(log, at=cut)
    before = repr(first)
    assert fold(log[cut:], start=first) == fold(log)
    assert repr(first) == before, "the state that was begun with stays as it is"
