"""A real server that dies, hangs, fills up, or is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.batch import MAX_BATCH_MESSAGES, Outgoing, batch_frames
from enchanted.bus.connection import Bus
from enchanted.bus.errors import (
    ApiRefused,
    BusAccessDenied,
    BusClosed,
    BusUnreachable,
    PublishOutcomeUnknown,
    StreamDiffers,
    StreamFull,
    StreamMadeAgain,
    StreamMissing,
)
from enchanted.bus.link import Frame, Link
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, free_port, nats_server
from enchanted.schemas import events
from enchanted.schemas.chain import verify
from enchanted.schemas.events import SwarmEvent

DEADLINE = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


def signal(detail: str = "") -> SwarmEvent:
    return events.system_signal(status="HEALTHY", detail=detail)


def outgoing(*, size: int = 10, expected_last: int | None = None, event_id: str = "") -> Outgoing:
    return Outgoing(
        subject="swarm.events.coder.decision.r",
        payload=b"x" * size,
        event_id=event_id or new_id(),
        expected_last=expected_last,
    )


async def refusal_of(bus: Bus, messages: list[Outgoing]) -> StreamFull | None:
    try:
        await bus.publisher.publish_many(messages)
    except StreamFull as refused:
        return refused
    return None


async def kill_and_restart(server: NatsServer) -> None:
    before = server.pid
    await server.kill()
    await asyncio.sleep(0.3)
    await server.start()
    assert server.pid not in (0, before)


async def test_nothing_acknowledged_is_lost_and_no_chain_breaks_when_the_server_is_killed(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        logs = [AgentLog(bus, run_id="run", role="coder", agent_name=f"coder-{k}") for k in range(4)]
        acknowledged: list[tuple[int, bytes]] = []

        async def write(log: AgentLog) -> None:
            for _ in range(25):
                acknowledged.extend((stored.seq, stored.raw) for stored in await log.emit(signal(), signal()))

        async def disturb() -> None:
            for wanted in (20, 100):
                while len(acknowledged) < wanted:  # noqa: ASYNC110  # a level, not an event
                    await asyncio.sleep(0.001)
                await kill_and_restart(server)

        await asyncio.gather(disturb(), *(write(log) for log in logs))
        assert bus.publisher.statistics().retries > 0, "the kills must have hit a publish"
        stored = await bus.read_run("run")
    assert {(entry.seq, entry.raw) for entry in stored} == set(acknowledged)
    assert len(acknowledged) == 200
    verdict = verify(stored)
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 200)


async def test_a_conditional_event_survives_a_kill_without_a_false_conflict(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        killing = asyncio.create_task(kill_and_restart(server))
        last = 0
        while not killing.done() or last < 50:
            last = (await bus.publisher.publish(outgoing(expected_last=last))).seq
        await killing
        assert bus.publisher.statistics().retries > 0
        assert (await bus.stream_info()).messages == last


async def test_the_tail_goes_on_where_it_was_after_a_kill(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as writer, Bus.connect(server.url) as reader:
        log = AgentLog(writer, run_id="run", role="coder", agent_name="coder-1")
        seen: list[int] = []

        async def follow() -> None:
            async with aclosing(reader.tail(after=0)) as tail:
                async for stored in tail:
                    seen.append(stored.seq)
                    if len(seen) == 60:
                        return

        following = asyncio.create_task(follow())
        for _ in range(30):
            await log.emit(signal())
        await kill_and_restart(server)
        for _ in range(30):
            await log.emit(signal())
        await following
    assert seen == list(range(1, 61))


@pytest.mark.parametrize(("code", "read"), [(10076, True), (10039, True), (10058, False)])
async def test_a_run_is_read_though_the_server_first_makes_no_consumer_and_what_it_never_makes_is_told(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, code: int, read: bool
) -> None:
    answers, ask = [code, code], Link.api

    async def refusing(self: Link, subject: str, body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        if subject.startswith("CONSUMER.CREATE") and answers:
            raise ApiRefused(subject, {"code": 503, "err_code": answers.pop(), "description": "not now"})
        return await ask(self, subject, body, **options)

    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        await AgentLog(bus, run_id="run", role="coder", agent_name="coder-1").emit(signal())
        monkeypatch.setattr(Link, "api", refusing)
        if read:
            assert len(await bus.read_run("run")) == 1
        else:
            with pytest.raises(ApiRefused):
                await bus.read_run("run")
    assert len(answers) == (0 if read else 1)


async def test_a_blob_is_put_and_read_over_a_kill(server: NatsServer) -> None:
    data = b"0123456789" * 500_000
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        putting = asyncio.create_task(bus.blobs.put(data))
        await kill_and_restart(server)
        assert await bus.blobs.get(await putting) == data


@pytest.mark.parametrize("age", [0.0, 110.0])
async def test_an_unknown_outcome_is_resolved_once_the_server_answers_again(
    server: NatsServer, age: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url, ack_timeout=0.5) as bus:
        now = 0.0
        log = AgentLog(bus, run_id="run", role="coder", agent_name="coder-1", elapsed=lambda: now)
        await log.emit(signal())
        await server.pause()
        monkeypatch.setattr(bus.publisher, "_retry_for", 2.0)
        try:
            with pytest.raises(PublishOutcomeUnknown):
                await log.emit(signal(), signal())
        finally:
            monkeypatch.undo()
            server.resume()
        now = age
        (stored,) = await log.emit(signal())
        verdict = verify(await bus.read_run("run"))
    # The hung server had the batch in its socket and stored it; a chain that assumed otherwise would have forked.
    assert stored.event.agent_seq == 4
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 4)


async def test_a_hung_server_delays_a_publish_and_stores_it_once(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url, ack_timeout=0.3) as bus:
        await server.pause()
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(bus.publisher.publish_many([outgoing() for _ in range(20)]))
            while bus.publisher.statistics().retries < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            server.resume()
        acks = publishing.result()
        assert [ack.seq for ack in acks] == list(range(1, 21))
        assert (await bus.stream_info()).messages == 20


async def test_a_full_stream_refuses_says_how_to_raise_the_limit_and_keeps_what_it_acknowledged(
    tmp_path: Path,
) -> None:
    limits = replace(SMALL_LIMITS, events_max_bytes=200_000)
    async with nats_server(tmp_path, limits=limits) as server, Bus.connect(server.url) as bus:
        triples = [[outgoing(size=5_000) for _ in range(3)] for _ in range(20)]
        outcomes = [await asyncio.wait_for(refusal_of(bus, triple), DEADLINE) for triple in triples]
        assert "max_bytes" in str(outcomes[-1])
        assert (await bus.stream_info()).messages == 3 * outcomes.count(None)
        small, large = await asyncio.gather(
            refusal_of(bus, [outgoing(size=1)]), refusal_of(bus, [outgoing(size=20_000)])
        )
    assert small is None
    assert isinstance(large, StreamFull)


async def test_too_many_open_batches_are_waited_for(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        open_batches = [batch_frames([outgoing(), outgoing()], f"open-{k}") for k in range(50)]
        for first, _ in open_batches:
            await bus.link.publish(first)
        publishing = asyncio.create_task(bus.publisher.publish_many([outgoing(), outgoing()]))
        while bus.publisher.statistics().retries < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await bus.link.exchange([open_batches[0][1]])
        assert len(await publishing) == 2


async def test_a_server_without_our_streams_is_named_as_such(tmp_path: Path) -> None:
    async with nats_server(tmp_path, limits=None) as server, Bus.connect(server.url) as bus:
        with pytest.raises(StreamMissing, match="ensure_streams"):
            await bus.publisher.publish(outgoing())


async def test_a_stream_with_other_settings_is_reported_and_left_alone(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        await bus.ensure_streams(SMALL_LIMITS)
        with pytest.raises(StreamDiffers) as caught:
            await bus.ensure_streams(replace(SMALL_LIMITS, events_max_bytes=1_000_000))
        assert caught.value.differences == {"max_bytes": (SMALL_LIMITS.events_max_bytes, 1_000_000)}
        config = (await bus.link.api(f"STREAM.INFO.{EVENTS_STREAM}"))["config"]
    assert config["max_bytes"] == SMALL_LIMITS.events_max_bytes


async def test_the_sync_setting_is_read_from_the_server(server: NatsServer, tmp_path: Path) -> None:
    async with Bus.connect(server.url, sys_url=server.sys_url) as bus:
        assert (await bus.durability()).sync_always is True
    async with Bus.connect(server.url) as bus:
        assert (await bus.durability()).sync_always is None
    async with Bus.connect(server.url, sys_url=server.url) as bus:
        assert (await bus.durability()).sync_always is None
    unsafe_folder = tmp_path / "unsafe"
    async with (
        nats_server(unsafe_folder, sync="default") as unsafe,
        Bus.connect(unsafe.url, sys_url=unsafe.sys_url) as bus,
    ):
        assert (await bus.durability()).sync_always is False


async def test_wrong_credentials_are_refused_at_once(server: NatsServer) -> None:
    async with asyncio.timeout(30.0):
        with pytest.raises(BusAccessDenied, match="password"):
            async with Bus.connect(f"nats://app:wrong@127.0.0.1:{server.port}", connect_timeout=60.0):
                pass


async def test_who_follows_a_stream_is_told_when_another_one_has_its_name(server: NatsServer) -> None:
    async with Bus.connect(server.url) as bus:
        await bus.publisher.publish_many([outgoing() for _ in range(3)])
        async with aclosing(bus.tail(after=3)) as events, asyncio.timeout(DEADLINE):
            following = asyncio.create_task(anext(events))
            await until_read(bus)
            await bus.link.api(f"STREAM.DELETE.{EVENTS_STREAM}")
            await bus.ensure_streams(SMALL_LIMITS)
            await bus.publisher.publish_many([outgoing() for _ in range(5)])
            with pytest.raises(StreamMadeAgain, match="made again while it was read after 3"):
                await following


async def until_read(bus: Bus) -> None:
    """Return when a reader has taken all there is."""
    while True:
        names = (await bus.link.api(f"CONSUMER.NAMES.{EVENTS_STREAM}"))["consumers"] or ()
        states = [await bus.link.api(f"CONSUMER.INFO.{EVENTS_STREAM}.{name}") for name in names]
        if states and not any(state["num_pending"] for state in states):
            return
        await asyncio.sleep(0.02)


async def test_a_closed_connection_connects_no_more_though_a_cancellation_was_lost(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(server.url, name="test")
    await link.open()
    connecting, lost = asyncio.Event(), 0

    async def stubborn(*_: object) -> None:
        nonlocal lost
        connecting.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            lost += 1
            if lost > 2:
                raise
            raise ConnectionRefusedError from None

    monkeypatch.setattr(Client, "_connect_to_server", stubborn)
    await server.kill()
    async with asyncio.timeout(DEADLINE):
        await connecting.wait()
        await link.close()
    assert lost
    assert not [task for task in asyncio.all_tasks() if "_attempt_reconnect" in repr(task.get_coro())]


async def test_a_connection_that_never_came_is_closed_without_complaint() -> None:
    link = Link(f"nats://127.0.0.1:{free_port()}", name="test")
    opening = asyncio.create_task(link.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait({opening})
    await link.close()
    assert opening.cancelled()
    await Link("nats://127.0.0.1:1", name="test").close()


async def test_a_client_that_loses_a_cancellation_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, connect = 0, Client.connect

    async def stubborn(self: Client, *servers: Any, **options: Any) -> None:
        nonlocal lost
        while True:
            try:
                return await connect(self, *servers, **options)
            except asyncio.CancelledError:
                lost += 1
                if lost > 2:
                    raise

    monkeypatch.setattr(Client, "connect", stubborn)
    async with asyncio.timeout(30):
        with pytest.raises(BusUnreachable):
            await Bus.connect(f"nats://app:secret@127.0.0.1:{free_port()}", connect_timeout=0.2).open()
    assert lost == 3


async def test_no_server_is_said_within_the_connect_timeout() -> None:
    bus = Bus.connect(f"nats://app:secret@127.0.0.1:{free_port()}", connect_timeout=0.5)
    async with asyncio.timeout(9.0):
        with pytest.raises(BusUnreachable) as caught:
            await bus.open()
    assert "secret" not in str(caught.value)


async def test_a_closed_bus_refuses_and_closing_twice_is_harmless(server: NatsServer) -> None:
    bus = await Bus.connect(server.url).open()
    await bus.close()
    await bus.close()
    with pytest.raises(BusClosed):
        await bus.publisher.publish(outgoing())


async def test_closing_while_the_server_is_gone_ends(server: NatsServer) -> None:
    bus = await Bus.connect(server.url).open()
    await server.kill()
    async with asyncio.timeout(10.0):
        await bus.close()


async def test_a_batch_is_what_arrived_while_the_last_one_committed(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        acks = await asyncio.gather(*(bus.publisher.publish(outgoing()) for _ in range(2_500)))
        assert [ack.seq for ack in acks] == list(range(1, 2_501))
        statistics = bus.publisher.statistics()
    assert statistics.largest_batch == MAX_BATCH_MESSAGES
    assert statistics.batches <= 4


async def test_a_connection_the_server_ends_with_an_error_is_opened_again(server: NatsServer) -> None:
    async with asyncio.timeout(DEADLINE), Bus.connect(server.url) as bus:
        first = await bus.publisher.publish(outgoing())
        # nats-py checks the payload only; with headers it exceeds what the server takes, which answers with an error
        # line. nats-py never comes back from that by itself.
        connection = bus.link._connection
        await bus.link.publish(Frame("swarm.events.a", b"x" * (2 * 1024 * 1024 - 10), {"a": "b" * 1000}))
        # Between two looks it may be closed and opened again.
        while bus.link.is_connected and bus.link._connection is connection:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        second = await bus.publisher.publish(outgoing())
        assert second.seq == first.seq + 1
        assert [stored.seq for stored in await bus.read_run("r")] == [first.seq, second.seq]
