"""The spool: what it took is there after a kill, torn ends are cut off, damage and a full file are said aloud."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enchanted.bus.batch import Outgoing
from enchanted.bus.spool import Spool, SpoolFull, SpoolUnusable

WRITER = """
import sys
from pathlib import Path
from enchanted.bus.batch import Outgoing
from enchanted.bus.spool import Spool
spool = Spool(Path(sys.argv[1])); spool.open()
for number in range(100000):
    spool.append([Outgoing(subject="swarm.events.a", payload=b"x" * 5000, event_id=str(number))])
    print(number, flush=True)
"""


def message(event_id: str, payload: bytes = b"\x00\xff") -> Outgoing:
    return Outgoing(subject="swarm.events.a", payload=payload, event_id=event_id, headers={"traceparent": "é"})


def ids(path: Path) -> list[str]:
    spool = Spool(path)
    spool.open()
    try:
        return [m.event_id for record in spool.records() for m in record.messages]
    finally:
        spool.close()


def filled(path: Path, *event_ids: str) -> None:
    spool = Spool(path)
    spool.open()
    for event_id in event_ids:
        spool.append([message(event_id)], after=7)
    spool.close()


async def test_messages_come_back_whole_and_in_order(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool") as spool:
        spool.append([message("a"), message("b")], after=7)
        spool.append([message("c")])
    async with Spool(tmp_path / "spool") as spool:
        first, second = spool.records()
        assert (first.messages, first.after) == ([message("a"), message("b")], 7)
        assert second.messages == [message("c")]
        spool.drained(first.end)
        assert [r.messages[0].event_id for r in spool.records()] == ["c"]
        spool.drained(second.end)
        assert (spool.size, spool.path.stat().st_size) == (0, 0)


def test_a_last_record_torn_anywhere_is_cut_off_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, "a")
    whole = path.stat().st_size
    filled(path, "b")
    data = path.read_bytes()
    for end in range(whole, len(data)):
        path.write_bytes(data[:end])
        assert ids(path) == ["a"]
        assert path.stat().st_size == whole
        path.write_bytes(data[:end] + bytes(len(data) - end))
        assert ids(path)[:1] == ["a"]


def test_damage_before_the_last_record_is_refused_and_the_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, "a", "b")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpoolUnusable, match="damaged"):
        ids(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("bit", range(32))
def test_a_flipped_bit_of_a_length_discards_nothing(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "spool"
    filled(path, "a", "b", "c")
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 0x80 >> bit % 8
    path.write_bytes(data)
    with pytest.raises(SpoolUnusable, match="record at 0 is damaged and others follow"):
        ids(path)
    assert path.read_bytes() == data


def test_what_is_cut_off_is_kept_beside_the_spool_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool"
    filled(path, "a")
    whole = path.stat().st_size
    filled(path, "b")
    data = bytearray(path.read_bytes())
    data[whole] ^= 0x40
    for _ in range(2):
        path.write_bytes(data)
        assert ids(path) == ["a"]
        (aside,) = tmp_path.glob("spool.cut-off-*")
        assert aside.read_bytes() == data[whole:]
        assert str(aside) in caplog.text


def test_nothing_is_cut_off_while_it_cannot_be_kept_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool"
    filled(path, "a", "b")
    data = path.read_bytes()[:-1]
    path.write_bytes(data)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("enchanted.bus.spool._write_all", full)
    with pytest.raises(SpoolUnusable, match="No space left"):
        ids(path)
    assert path.read_bytes() == data


def test_zeros_at_the_end_are_cut_off_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, "a")
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert ids(path) == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_record_whose_payload_looks_as_records_begin_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, "a")
    spool = Spool(path)
    spool.open()
    spool.append([message("b", b"\x00\x00\x00\x09aaaa\x00\x00\x00\x04[7, [[" * 1000)])
    spool.close()
    path.write_bytes(path.read_bytes()[:-1])
    assert ids(path) == ["a"]


async def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", max_bytes=1000) as spool:
        spool.append([message("a")])
        with pytest.raises(SpoolFull, match="1000 bytes"):
            spool.append([message("b", bytes(1000))])
    assert ids(tmp_path / "spool") == ["a"]


async def test_a_second_user_is_refused(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool"):
        with pytest.raises(SpoolUnusable, match="another process"):
            Spool(tmp_path / "spool").open()


def test_what_was_acknowledged_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [line.strip() for line, _ in zip(writer.stdout, range(20), strict=False)]
        os.kill(writer.pid, signal.SIGKILL)
    assert ids(path)[: len(acknowledged)] == acknowledged == [str(k) for k in range(20)]
