"""The floors of `enchanted bench ingest`, against real servers."""

from __future__ import annotations

from pathlib import Path

from enchanted.benchmarks import ingest
from enchanted.benchmarks.case import Result
from enchanted.benchmarks.load import load
from enchanted.benchmarks.players import publish_all
from enchanted.benchmarks.rig import plane
from enchanted.bus.testing import nats_server


async def test_a_bare_read_has_every_event_with_its_bytes_and_subject(tmp_path: Path) -> None:
    events = load(1_500)
    begun = list[bool]()
    async with nats_server(tmp_path) as server:
        await publish_all(server.url, events)
        await ingest._fresh_consumers(server)
        frames = ingest._frames(server.url, len(events), lambda: begun.append(True))
        read = [one for batch in [batch async for batch in frames] for one in batch]
        await ingest._fresh_consumers(server)
        await ingest.bare_fetch(server.url, "", len(events), lambda: begun.append(True))

    assert [(one.subject, one.raw) for one in read] == [(one.subject, one.raw) for one in events]
    assert [one.seq for one in read] == list(range(1, 1_501))
    assert begun == [True, True]


async def test_a_bare_insert_stores_every_event() -> None:
    events = load(200)
    async with plane() as servers:
        await publish_all(servers.nats.url, events)
        await ingest._fresh_consumers(servers.nats)
        begun = list[bool]()
        await ingest.bare_insert(servers.nats.url, servers.store.url, len(events), lambda: begun.append(True))

        assert await servers.rows() == 200
        assert begun == [True]


def test_the_parts_of_the_floor_have_rows_beside_it() -> None:
    sample = {"worker": 3.0, "store": 4.0, "rate": 5.0}
    rows = ingest._rows({name: [sample] for name in ingest.CASES})
    shown = {row["name"]: row for row in Result(benchmark="b", question="q", rows=rows).as_dict()["rows"]}

    assert [shown[f"{name}: CPU"]["median"] for name in ingest.PULLS] == [3.0, 3.0]
    assert shown[f"{ingest.INSERT}: CPU"]["median"] == 7.0
    assert shown["ingest worker: CPU over the floor"]["floor"] == "lean read + bare Protobuf insert: CPU"
    assert shown["ingest worker: CPU over the obvious"]["floor"] == "fetch(1000) + row insert: CPU"
