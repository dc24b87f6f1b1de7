"""The window of newest events, and the tail that all live clients share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest

from enchanted.bus.errors import BusClosed
from enchanted.bus.streams import StreamInfo
from enchanted.schemas.events import StoredEvent, SwarmEvent
from enchanted.serve.live import shared
from enchanted.serve.live.shared import PIECE, Piece, SharedTail, Sharing, Window, cut, piece_of


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Ray Serve runs on uvloop, whose handles are others."""
    return "asyncio", {"use_uvloop": request.param}


def _stored(seq: int) -> StoredEvent:
    event = SwarmEvent(event_id=f"e-{seq}")
    raw = event.SerializeToString()
    return StoredEvent(seq=seq, time=datetime.now(UTC), subject="swarm.events.a.b", raw=raw, event=event)


CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def info(last_seq: int, created: datetime = CREATED) -> StreamInfo:
    return StreamInfo(created=created, first_seq=1, last_seq=last_seq, messages=last_seq, bytes=0)


class Source:
    """A stream that grows when it is told to."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended = 0
        self._queue: asyncio.Queue[StoredEvent | None] = asyncio.Queue()

    def grow(self, *seqs: int) -> None:
        for seq in seqs:
            self._queue.put_nowait(_stored(seq))

    def fail(self) -> None:
        self._queue.put_nowait(None)

    async def tail(self, after: int, _: datetime) -> AsyncGenerator[StoredEvent, None]:
        self.begun.append(after)
        try:
            while (stored := await self._queue.get()) is not None:
                yield stored
            raise BusClosed
        finally:
            self.ended += 1


async def _all(shared: SharedTail, after: int, until: int) -> list[int]:
    seen: list[int] = []
    async with asyncio.timeout(5):
        while after < until:
            for told in await shared.wait(after, 1.0):
                after = told.stored.seq
                seen.append(after)
    return seen


def test_a_full_window_forgets_the_oldest_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "KEPT", 10)
    window = Window(100)
    for seq in range(101, 114):
        window.add(_stored(seq))

    assert window.floor > 100
    assert [told.stored.seq for told in window.after(window.floor)] == list(range(window.floor + 1, 114))
    assert window.newest == 113


def test_a_window_skips_what_the_stream_does_not_have() -> None:
    window = Window(5)
    for seq in (7, 9):
        window.add(_stored(seq))

    assert [told.stored.seq for told in window.after(8)] == [9]
    assert window.after(9) == []


def test_events_nobody_wants_move_the_position_on() -> None:
    window = Window(0)
    window.add(_stored(1))

    piece = piece_of(window.after(0), lambda _: False)

    assert (piece.frames, piece.message) == (b"id: 1\n\n", '{"type":"alive","seq":1}')
    assert piece_of([], lambda _: True).frames == b": alive\n\n"


async def test_everyone_who_listens_is_told_everything_by_one_reader() -> None:
    source = Source()
    sharing = Sharing(source.tail)
    async with sharing.joined(0, info(0)) as one, sharing.joined(0, info(0)) as other:
        assert one is other
        reading = [asyncio.create_task(_all(one, 0, 50)) for _ in range(20)]
        for start in range(1, 51, 10):
            source.grow(*range(start, start + 10))
            await asyncio.sleep(0)
        assert await asyncio.gather(*reading) == [list(range(1, 51))] * 20
    await sharing.close()

    assert (source.begun, source.ended) == ([0], 1)


async def test_who_wants_the_same_gets_the_same_piece() -> None:
    source = Source()
    sharing = Sharing(source.tail)
    source.grow(1, 2)
    async with sharing.joined(0, info(0)) as shared:
        taken = await shared.wait(0, 5.0)
        first, second = (shared.piece(("run-1", 0), taken, lambda _: True) for _ in range(2))
        other = shared.piece(("run-2", 0), taken, lambda _: False)
    await sharing.close()

    assert first is second
    assert other.events == ()


async def test_the_first_begins_where_it_is_if_that_is_near_and_a_late_one_has_to_catch_up() -> None:
    source = Source()
    sharing = Sharing(source.tail)
    async with sharing.joined(90, info(100)) as shared, sharing.joined(5, info(100)):
        assert shared.window.floor == 90
        assert await shared.wait(5, 0.01) == []
    await sharing.close()
    async with sharing.joined(1, info(100_000)) as shared:
        assert shared.window.floor == 100_000
    await sharing.close()


async def test_a_client_that_comes_back_soon_finds_the_tail_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    sharing = Sharing(source.tail)
    async with sharing.joined(0, info(0)) as before:
        pass
    async with sharing.joined(0, info(0)) as after:
        assert after is before
    monkeypatch.setattr(shared, "LINGER", 0.0)
    async with sharing.joined(0, info(0)):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while not source.ended:  # noqa: ASYNC110 - nothing else says that it ended
            await asyncio.sleep(0.01)
    async with sharing.joined(0, info(0)) as later:
        assert later is not before
    await sharing.close()


async def test_a_reader_that_fails_tells_those_who_wait_and_is_made_anew() -> None:
    source = Source()
    sharing = Sharing(source.tail)
    async with sharing.joined(0, info(0)) as shared:
        source.grow(1)
        source.fail()
        assert [told.stored.seq for told in await shared.wait(0, 5.0)] == [1]
        with pytest.raises(BusClosed):
            await shared.wait(1, 5.0)
        async with sharing.joined(1, info(1)) as again:
            assert again is not shared
    await sharing.close()


async def test_who_comes_to_a_stream_that_was_made_again_does_not_share_the_tail_of_the_former() -> None:
    source = Source()
    sharing = Sharing(source.tail)
    async with sharing.joined(90, info(100)) as former, sharing.joined(2, info(5, datetime.now(UTC))) as later:
        assert later is not former
        assert later.window.floor == 2
    await sharing.close()


def test_a_position_at_the_begin_of_the_stream_is_told_and_no_sign_of_life() -> None:
    assert (Piece(seen=0).frames, Piece().frames) == (b"id: 0\n\n", b": alive\n\n")
    assert (Piece(seen=0).message, Piece().message) == ('{"type":"alive","seq":0}', '{"type":"alive","seq":null}')


def test_events_are_cut_into_pieces_but_never_between_two_of_one_sequence() -> None:
    half = b"x" * (PIECE // 2)
    events = [(1, half), (2, half), (2, half), (3, b"y"), (4, half), (5, half), (6, b"z")]
    assert [[seq for seq, _ in piece.events] for piece in cut(events)] == [[1, 2, 2], [3, 4, 5], [6]]
    assert [one for piece in cut(events) for one in piece.events] == events
    assert list(cut([])) == []
