"""What a publish is told when the stream answers late, twice or not at all: refused only if nothing is stored."""

from __future__ import annotations

import asyncio
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


class TimedLink(ScriptedLink):
    """Gives no answer before ``until``; an attempt takes a second of the clock. Keeps the ids that were sent."""

    def __init__(self, *script: int | None, until: float) -> None:
        super().__init__(*script)
        self.now = 0.0
        self.until = until
        self.seen: list[tuple[float, list[str]]] = []

    async def exchange(self, frames: Sequence[Frame], *, timeout: float | None = None) -> Msg:
        self.seen.append((self.now, [(frame.headers or {})["Nats-Msg-Id"] for frame in frames]))
        self.now += 1.0
        if self.now <= self.until:
            raise BusUnavailable(frames[0].subject, "no answer in time")
        return await super().exchange(frames, timeout=timeout)

    async def pause(self, seconds: float, what: str) -> bool:
        await asyncio.sleep(0)
        return False

    async def request(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, timeout: float | None = None
    ) -> Msg:
        raise BusUnavailable(subject, "no answer in time")


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


async def test_who_came_late_into_a_batch_has_the_whole_retry_time_and_not_what_the_first_has_left() -> None:
    link = TimedLink(until=200.0)
    publisher = Publisher(link, clock=lambda: link.now)
    early = asyncio.create_task(publisher.publish(message("a")))
    while link.now < 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second = asyncio.create_task(publisher.publish(message("b")))
    while link.now < 74:  # noqa: ASYNC110
        await asyncio.sleep(0)
    late = asyncio.create_task(publisher.publish(message("c")))
    ended: dict[str, float] = {}
    for name, task in (("a", early), ("b", second), ("c", late)):
        with pytest.raises(PublishOutcomeUnknown, match="75 s"):
            await task
        ended[name] = link.now
    assert 75 <= ended["a"] <= 77
    assert 76 <= ended["b"] <= 79
    assert 74 + 75 <= ended["c"] <= 74 + 78
    together = [at for at, ids in link.seen if ids == ["b", "c"]]
    assert together, "both were in one batch"
    assert all(at > max(together) for at, ids in link.seen if ids == ["c"])


async def test_who_has_time_left_when_another_gives_up_is_stored_and_in_order() -> None:
    publisher = Publisher(link := TimedLink(until=4.0), clock=lambda: link.now)
    short = publisher._enqueue([message("a")], 2.0)[0]
    groups = [publisher._enqueue([message(name)], 50.0)[0] for name in "bc"]
    with pytest.raises(PublishOutcomeUnknown):
        await short.done
    assert [ack.seq for group in groups for ack in await group.done] == [0, 1]
    assert [ids for _, ids in link.seen] == [["a", "b", "c"]] * 2 + [["b", "c"]] * 3
    await publisher.close()


async def test_what_the_shared_batch_stored_after_all_counts_as_stored_for_who_had_time_left() -> None:
    publisher = Publisher(link := TimedLink(DUPLICATE, until=2.0), clock=lambda: link.now)
    short = publisher._enqueue([message("a")], 2.0)[0]
    groups = [publisher._enqueue([message(name)], 50.0)[0] for name in "bc"]
    with pytest.raises(PublishOutcomeUnknown):
        await short.done
    assert [ack.seq for group in groups for ack in await group.done] == [1, 1]
    await publisher.close()


async def test_a_refusal_after_a_lost_answer_is_not_asked_for_again_until_the_deadline() -> None:
    publisher = Publisher(link := TimedLink(FULL, until=1.0), clock=lambda: link.now)
    groups = [publisher._enqueue([message(name)], 50.0)[0] for name in "ab"]
    for group in groups:
        with pytest.raises(PublishOutcomeUnknown):
            await group.done
    assert len(link.seen) == 2
    await publisher.close()


async def test_many_deadlines_in_one_batch_end_one_by_one() -> None:
    publisher = Publisher(link := TimedLink(until=1e9), clock=lambda: link.now)
    groups = [publisher._enqueue([message(str(number))], float(number))[0] for number in range(600)]
    outcomes = await asyncio.gather(*(group.done for group in groups), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {PublishOutcomeUnknown}
    await publisher.close()
