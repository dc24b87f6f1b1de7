"""Recorded runs of released versions, run again by the code as it is: the swarm still does what it did."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest

from enchanted.actors.rerun import file
from enchanted.actors.rerun.driver import Verdict, rerun
from enchanted.actors.rerun.errors import CannotRerun, NotARecording
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.schemas.canonical import canonical_json
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.zip"))
DEMO = next(path for path in GOLDEN if path.name.startswith("demo"))
REPAIR = next(path for path in GOLDEN if path.name.startswith("repair"))
ALONE = """
import sys
from enchanted.actors.rerun.__main__ import main
status = main()
print(sorted({"ray", "torch", "vllm", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_recording_reruns_equal_without_network_model_or_ray(golden: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("taking the network away needs root and unshare")
    command = ["unshare", "-n", sys.executable, "-c", ALONE, str(golden)]
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    document = json.loads(done.stdout)
    assert (document["equal"], document["divergence"]) == (True, None)
    assert document["compared"] == document["recorded"] > 30
    assert document["model_calls"] > 0
    assert document["tool_calls"] > 0
    assert document["times_faster"] >= 20
    assert done.stderr.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_recording_is_the_whole_run_and_untouched(golden: Path) -> None:
    verdict = verify(asyncio.run(file.load(golden)).events)
    assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True)
    assert golden.stat().st_size < 300 << 10


def test_the_version_of_today_has_a_golden_recording() -> None:
    """A release adds its own: `enchanted rerun RUN --record tests/golden/demo-VERSION.zip` of a demo's run."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    version = project["project"]["version"]
    assert f"demo-{version}.zip" in {path.name for path in GOLDEN}


@pytest.mark.parametrize(("golden", "tool"), [(DEMO, "lint"), (REPAIR, "find_repairs")], ids=["lint", "find_repairs"])
async def test_a_recording_of_a_version_that_kept_no_findings_is_refused_and_names_the_event(
    golden: Path, tool: str
) -> None:
    recording = await file.load(golden)
    call = first(recording, "coder", "tool_call", tool)
    assert call.event.tool_call.data

    with pytest.raises(CannotRerun, match=f"event {call.event.event_id} is of a version that .* what {tool} found"):
        await altered(recording, call, found_unsaid)

    # A call that failed found nothing, in any version.
    def failed_unsaid(event: SwarmEvent) -> None:
        failed(event)
        found_unsaid(event)

    await altered(recording, call, failed_unsaid)


def test_an_altered_file_ends_with_status_1_and_the_event(tmp_path: Path) -> None:
    async def write() -> StoredEvent:
        recording = await file.load(DEMO)
        call = first(recording, "coder", "model_call")
        file.save(await altered(recording, call, other_choice), tmp_path / "altered.zip")
        return call

    call = asyncio.run(write())
    command = [sys.executable, "-m", "enchanted.actors.rerun", str(tmp_path / "altered.zip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)["divergence"]
    assert found["agent"] == call.event.agent_name
    assert found["recorded"]["event"]["parent_event_id"] == call.event.event_id


def test_what_is_no_recording_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for name, content in (("empty.zip", b""), ("text.zip", b"no zip"), ("cut.zip", DEMO.read_bytes()[:5_000])):
        (tmp_path / name).write_bytes(content)
        command = [sys.executable, "-m", "enchanted.actors.rerun", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is no recording" in done.stderr
        assert "remedy: `enchanted rerun RUN --record FILE` writes one" in done.stderr


def patched(data: bytes, place: int, mask: int) -> bytes:
    """The same bytes with some bits of one turned over."""
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def damaged() -> dict[str, bytes]:
    """The demo's recording, damaged in one place each."""
    data = DEMO.read_bytes()
    with zipfile.ZipFile(DEMO) as archive:
        first_entry, content, last = archive.start_dir, 30 + len("events.json"), archive.infolist()[-1].header_offset
    return {
        "its compressed data": patched(data, content, 0x07),
        "where its last member begins": patched(data, last + 29, 0x80),
        "the flag of encryption": patched(data, first_entry + 8, 0x01),
        "the version it needs": patched(data, first_entry + 6, 0x40),
        "how it is compressed": patched(data, first_entry + 10, 0x04),
        "how it is compressed, otherwise": patched(data, first_entry + 10, 0x06),
        "where its list begins": patched(data, len(data) - 22 + 16 + 2, 0x80),
    }


@pytest.mark.parametrize("name", damaged())
async def test_a_recording_with_one_damaged_byte_is_refused_as_no_recording(name: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.zip").write_bytes(damaged()[name])
    with pytest.raises(NotARecording, match="`enchanted rerun RUN --record FILE` writes one"):
        await file.load(tmp_path / "damaged.zip")


async def test_a_recording_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await file.load(tmp_path / "nowhere.zip")


def first(recording: Recording, agent: str, kind: str, tool: str = "") -> StoredEvent:
    """The first event of a kind that an agent said."""
    return next(
        stored
        for stored in recording.events
        if stored.event.agent_name.startswith(agent)
        and kind_of(stored.event) == kind
        and stored.event.tool_call.tool == tool
    )


def own_events(recording: Recording, stored: StoredEvent) -> list[StoredEvent]:
    """What the process that said an event said in all, without its signals."""
    own = (one for one in recording.events if one.event.agent_id == stored.event.agent_id)
    return [one for one in own if kind_of(one.event) != "system_signal"]


async def altered(recording: Recording, stored: StoredEvent, change: Callable[[SwarmEvent], None]) -> Recording:
    """The same recording with one event changed."""
    event = SwarmEvent.FromString(stored.raw)
    change(event)
    new = replace(stored, event=event, raw=event.SerializeToString(deterministic=True))
    return await remade(recording, [new if one.seq == stored.seq else one for one in recording.events])


async def remade(recording: Recording, events: Sequence[StoredEvent]) -> Recording:
    async def read(_: str) -> Sequence[StoredEvent]:
        return events

    async def fetch(sha256: str) -> bytes:
        return recording.blobs[sha256]

    return await recording_of(recording.run_id, read, fetch)


async def performed(recording: Recording, tmp_path: Path) -> Verdict:
    return await rerun(recording, tmp_path / "scratch", patience=5)


def offered(event: SwarmEvent) -> list[tuple[str, str]]:
    """Every option with every reason for it."""
    schema = orjson.loads(event.model_call.parameters)["schema"]
    forms = [one["properties"] for one in schema["anyOf"]]
    return [(form["choice"]["enum"][0], reason) for form in forms for reason in form["rationale"]["enum"]]


def other_choice(event: SwarmEvent) -> None:
    """Answer with another of the offered options; where there is one only, with one that is not offered."""
    taken = orjson.loads(event.model_call.completion)["choice"]
    choice, reason = next(option for option in [*offered(event), ("no", "because")] if option[0] != taken)
    event.model_call.completion = canonical_json({"choice": choice, "rationale": reason})


def other_reason(event: SwarmEvent) -> None:
    """Answer with the same option and another of its reasons."""
    answer = orjson.loads(event.model_call.completion)
    reasons = [reason for choice, reason in offered(event) if choice == answer["choice"]]
    other = next(reason for reason in reasons if reason != answer["rationale"])
    event.model_call.completion = canonical_json({**answer, "rationale": other})


def unheard_reason(event: SwarmEvent) -> None:
    """Answer with a reason that was not offered, which is no answer."""
    answer = orjson.loads(event.model_call.completion)
    event.model_call.completion = canonical_json({**answer, "rationale": "because"})


def cut_short(event: SwarmEvent) -> None:
    event.model_call.completion = event.model_call.completion[:-2]


def other_output(event: SwarmEvent) -> None:
    event.tool_call.output += "\nand one more line"


def other_status(event: SwarmEvent) -> None:
    event.tool_call.exit_code = 1 - event.tool_call.exit_code


def failed(event: SwarmEvent) -> None:
    event.tool_call.outcome = "FAILED"


def found_unsaid(event: SwarmEvent) -> None:
    event.tool_call.data = ""


def no_findings(event: SwarmEvent) -> None:
    event.tool_call.data = canonical_json({"findings": []})


def other_repair(event: SwarmEvent) -> None:
    data = orjson.loads(event.tool_call.data)
    data["repairs"][0]["after"] += "  # better"
    event.tool_call.data = canonical_json(data)


def other_patch(event: SwarmEvent) -> None:
    lines = event.state_change.diff_patch.split("\n")
    last = max(number for number, line in enumerate(lines) if line.startswith((" ", "+")) and len(line) > 1)
    lines[last] += " "
    event.state_change.diff_patch = "\n".join(lines)


@dataclass(frozen=True)
class Alteration:
    """One event changed, and where that must come to light."""

    agent: str
    kind: str
    tool: str
    change: Callable[[SwarmEvent], None]
    found_at: str
    """Agent and kind of the recorded event that is not said any more."""
    field: str = ""
    """Begin of the first field that differs."""
    golden: Path = DEMO


ALTERATIONS = {
    "the architect's choice": Alteration("architect", "model_call", "", other_choice, "architect decision", "decision"),
    "a reason of the architect's that is not offered": Alteration(
        "architect", "model_call", "", unheard_reason, "architect decision"
    ),
    "a coder's choice": Alteration("coder-2", "model_call", "", other_choice, "coder-2 decision", "decision"),
    "a coder's reason": Alteration("coder-1", "model_call", "", other_reason, "coder-1 decision", "decision"),
    "a coder's answer cut short": Alteration("coder-1", "model_call", "", cut_short, "coder-1 decision"),
    "the reviewer's reason": Alteration("reviewer", "model_call", "", other_reason, "reviewer decision", "decision"),
    "what the linter found": Alteration("coder-1", "tool_call", "lint", no_findings, "coder-1 model_call"),
    "what a check said": Alteration(
        "reviewer", "tool_call", "run_check", other_output, "orchestrator run_transition", "run_transition.details"
    ),
    "how a check ended": Alteration(
        "reviewer", "tool_call", "run_check", other_status, "orchestrator run_transition", "run_transition.details"
    ),
    "whether a fix was made": Alteration(
        "coder-1", "tool_call", "apply_fix", failed, "orchestrator run_transition", "run_transition"
    ),
    "what a repair would be": Alteration(
        "coder", "tool_call", "find_repairs", other_repair, "coder model_call", "model_call.messages", REPAIR
    ),
    "a patch": Alteration("coder-1", "state_change", "", other_patch, "coder-1 state_change"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
async def test_one_altered_answer_is_found_where_it_matters_first(name: str, tmp_path: Path) -> None:
    case = ALTERATIONS[name]
    recording = await file.load(case.golden)
    stored = first(recording, case.agent, case.kind, case.tool)
    verdict = await performed(await altered(recording, stored, case.change), tmp_path)
    found = verdict.divergence
    assert found is not None
    assert found.recorded is not None
    agent, kind = case.found_at.split()
    assert found.agent.startswith(agent)
    assert kind_of(found.recorded.event) == kind
    assert found.recorded.seq >= stored.seq
    before = [one for one in own_events(recording, found.recorded) if one.seq < found.recorded.seq]
    part = next(part for part in verdict.parts if part.agent_id == found.recorded.event.agent_id)
    assert part.equal == len(before)
    if agent.startswith(case.agent):
        # The same agent comes to something else at once: nothing it said lies between.
        assert [one for one in before if one.seq > stored.seq] == []
    if case.field:
        assert found.differences[0].field.startswith(case.field)
        assert found.differences[0].recorded != found.differences[0].new


async def test_every_altered_choice_of_a_model_is_found_at_the_decision_made_of_it(tmp_path: Path) -> None:
    recording = await file.load(DEMO)
    calls = [stored for stored in recording.events if kind_of(stored.event) == "model_call"]
    assert len(calls) >= 5
    for number, call in enumerate(calls):
        verdict = await performed(await altered(recording, call, other_choice), tmp_path / str(number))
        assert verdict.divergence is not None
        assert verdict.divergence.recorded is not None
        assert verdict.divergence.recorded.event.parent_event_id == call.event.event_id
        assert kind_of(verdict.divergence.recorded.event) == "decision"


async def test_an_event_that_is_missing_or_said_twice_is_found_there(tmp_path: Path) -> None:
    recording = await file.load(DEMO)
    decision = first(recording, "coder-1", "decision")
    without = await remade(recording, [one for one in recording.events if one.seq != decision.seq])
    found = (await performed(without, tmp_path / "without")).divergence
    assert found is not None
    assert found.new is not None
    assert kind_of(found.new) == "decision"
    assert found.new.decision == decision.event.decision
    twice = [again for one in recording.events for again in ([one, one] if one.seq == decision.seq else [one])]
    found = (await performed(await remade(recording, twice), tmp_path / "twice")).divergence
    assert found is not None
    assert found.recorded is not None
    assert found.recorded.event.event_id == decision.event.event_id


async def test_a_recording_without_what_an_agent_said_in_the_end_is_refused_and_names_it() -> None:
    recording = await file.load(DEMO)
    coder = first(recording, "coder-1", "decision").event.agent_id
    for kept in (0, 3):
        said = [one for one in recording.events if one.event.agent_id == coder]
        without = [one for one in recording.events if one not in said[kept:]]
        with pytest.raises(CannotRerun, match=rf"event {len(said)} of agent {coder}, which its verdict names"):
            await remade(recording, without)


async def test_code_that_fails_is_a_divergence_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> str:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("enchanted.actors.coder.Coder._act", broken)
    found = (await performed(await file.load(DEMO), tmp_path)).divergence
    assert found is not None
    assert found.why.startswith("the code failed: ")
    assert "a mistake of ours" in found.why
    assert found.recorded is not None


async def test_code_that_decides_otherwise_is_found_at_its_first_other_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enchanted.actors.coder.MAX_OPTIONS", 1)
    recording = await file.load(DEMO)
    found = (await performed(recording, tmp_path)).divergence
    assert found is not None
    assert found.agent.startswith("coder")
    assert found.new is not None
    assert kind_of(found.new) == "model_call"
    assert found.differences[0].field.startswith("model_call.")
