"""When a batch is due."""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.ingest.batch import Batch, BatchLimits


@dataclass
class _Item:
    payload: bytes


def _batch(**limits: float) -> Batch[_Item]:
    return Batch(BatchLimits(**{"rows": 3, "bytes": 100, "seconds": 1.0, **limits}))  # type: ignore[arg-type]


def test_an_empty_batch_is_never_due() -> None:
    batch = _batch()

    assert not batch.is_due(1e9)
    assert batch.wait(1e9) == 1.0


def test_age_counts_from_the_first_item() -> None:
    batch = _batch()
    batch.add(_Item(b"x"), now=10.0)
    batch.add(_Item(b"x"), now=10.9)

    assert not batch.is_due(10.99)
    assert batch.is_due(11.0)
    assert batch.wait(10.75) == 0.25


def test_it_is_due_when_full_by_rows() -> None:
    batch = _batch()
    for _ in range(3):
        batch.add(_Item(b""), now=0.0)

    assert batch.is_due(0.0)
    assert batch.room == (0, 100)


def test_it_is_due_when_full_by_bytes() -> None:
    batch = _batch()
    batch.add(_Item(bytes(150)), now=0.0)

    assert batch.is_due(0.0)
    assert batch.room == (2, 0)
