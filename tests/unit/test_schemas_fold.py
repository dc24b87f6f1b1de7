"""The fold: facts to state at a sequence."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas import events
from enchanted.schemas.events import FileChange, StoredEvent, SwarmEvent
from enchanted.schemas.fold import fold


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


def test_folding_on_from_a_state_equals_folding_everything() -> None:
    log = [stored(n, change(f"t{n - 1}", f"t{n}", written("a", str(n)))) for n in range(1, 6)]
    half = fold(log, at=3)
    assert fold(log[3:], start=half) == fold(log)


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


def test_two_names_that_are_not_utf8_and_look_the_same_are_two_files() -> None:
    odd = [
        FileChange(path="\\xff", path_hex=digits, new_mode="100644", new_blob=digits) for digits in ("ff", "5c786666")
    ]
    files = fold([stored(1, change("", "t", *odd, written("\\xff", "plain")))]).workspaces["main"].files
    assert sorted(file.blob for file in files.values()) == ["5c786666", "ff", "plain"]


def test_variables_and_schema_objects_fold_too() -> None:
    def value(kind: str, name: str, text: str) -> SwarmEvent:
        event = change("", "", workspace="main")
        event.state_change.target_type, event.state_change.target_resource = kind, name
        event.state_change.diff_patch = text
        return event

    log = [
        stored(1, value("ENV_VAR", "A", '"1"')),
        stored(2, value("ENV_VAR", "B", "2")),
        stored(3, value("DB_SCHEMA", "users", "CREATE TABLE users (id INT)")),
        stored(4, value("ENV_VAR", "A", "")),
        stored(5, value("KEYBOARD", "A", "x")),
    ]
    space = fold(log).workspaces["main"]
    assert (space.variables, space.schema_objects) == ({"B": "2"}, {"users": "CREATE TABLE users (id INT)"})
    assert fold(log, at=3).workspaces["main"].variables == {"A": '"1"', "B": "2"}
    assert space.tree == ""
