"""What a publish is told when the stream answers late, twice or not at all: refused only if nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import ApiRefused, BusUnavailable, PublishOutcomeUnknown, StateConflict, StreamFull
from enchanted.bus.link import Frame, Link
from enchanted.bus.publisher import Publisher

LOST = None
FULL = 10077
OFFLINE = 10118
DUPLICATE = 10201
WRONG_LAST = 10071


class ScriptedLink(Link):
    """Answers each exchange as told: an error code, nothing, or (when the script is over) a sequence."""

    def __init__(self, *script: int | None) -> None:
        super().__init__("nats://127.0.0.1:1", name="scripted")
        self.script = list(script)
        self.sent: list[int] = []

    @property
    def can_write(self) -> bool:
        return False

    @property
    def max_payload(self) -> int:
        return 1_000_000

    async def wait_connected(self, timeout: float) -> None:
        return None

    async def exchange(self, frames: Sequence[Frame], *, timeout: float | None = None) -> Msg:
        self.sent.append(len(frames))
        code = self.script.pop(0) if self.script else 0
        if code is LOST:
            raise BusUnavailable(frames[0].subject, "no answer in time")
        answer: dict[str, Any] = {"seq": 1} if code == 0 else {"error": {"err_code": code, "description": "test"}}
        return Msg(_client=Client(), data=json.dumps(answer).encode())

    async def api(
        self, subject: str, body: Mapping[str, Any] | None = None, *, patience: float = 30.0
    ) -> dict[str, Any]:
        raise ApiRefused(subject, {"err_code": 10037})


def message(event_id: str, *, expected_last: int | None = None) -> Outgoing:
    return Outgoing(subject="swarm.events.coder.decision", payload=b"x", event_id=event_id, expected_last=expected_last)


async def test_a_refusal_means_that_nothing_is_stored() -> None:
    with pytest.raises(StreamFull):
        await Publisher(ScriptedLink(FULL)).publish(message("a"))


async def test_after_a_lost_answer_a_refusal_is_no_proof() -> None:
    with pytest.raises(PublishOutcomeUnknown) as unknown:
        await Publisher(ScriptedLink(LOST, FULL)).publish(message("a"))
    assert isinstance(unknown.value.__cause__, StreamFull)


async def test_an_answer_that_says_come_back_later_leaves_no_doubt() -> None:
    with pytest.raises(StreamFull):
        await Publisher(ScriptedLink(OFFLINE, FULL)).publish(message("a"))


async def test_a_condition_that_does_not_hold_is_a_refusal_also_after_a_lost_answer() -> None:
    with pytest.raises(StateConflict):
        await Publisher(ScriptedLink(LOST, WRONG_LAST)).publish(message("a", expected_last=7))


async def test_a_batch_of_which_something_is_stored_is_not_refused() -> None:
    with pytest.raises(PublishOutcomeUnknown):
        await Publisher(ScriptedLink(DUPLICATE, FULL)).publish_many([message("a"), message("b")])


async def test_what_a_shared_batch_leaves_open_stays_open_for_each_caller() -> None:
    publisher = Publisher(link := ScriptedLink(LOST, DUPLICATE, FULL))
    first = publisher._enqueue([message("a"), message("b")], 1e9)
    second = publisher._enqueue([message("c")], 1e9)
    with pytest.raises(PublishOutcomeUnknown):
        await first[0].done
    assert [ack.seq for ack in await second[0].done] == [1]
    assert link.sent == [3, 3, 2, 1]
    await publisher.close()
