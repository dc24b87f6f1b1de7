"""A compressed export: every member of the gzip counts, and none of them makes it larger than an export may be."""

from __future__ import annotations

import gzip
import time

import pytest

from enchanted.ingest.errors import NotAnExport
from enchanted.serve.traces import otlp
from enchanted.serve.traces.otlp import MAX_EXPORT, _inflated


@pytest.mark.parametrize("bite", [1, 7, 4_096])
def test_a_gzip_of_several_members_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, bite: int) -> None:
    monkeypatch.setattr(otlp, "_BITE", bite)
    parts = [b"one", b"", b"two" * 50_000, b"three"]
    assert _inflated(b"".join(map(gzip.compress, parts))) == b"".join(parts)


def test_members_together_are_no_larger_than_an_export_may_be() -> None:
    half = gzip.compress(bytes(MAX_EXPORT // 2))
    assert len(_inflated(half * 2)) == MAX_EXPORT
    with pytest.raises(NotAnExport, match="more than"):
        _inflated(half * 2 + gzip.compress(b"x"))


@pytest.mark.parametrize(
    ("behind", "why"),
    [(gzip.compress(b"two", mtime=0)[:-1], "ends too early"), (b"no gzip", "is no gzip"), (b"\0", "early")],
    ids=["a part of a member", "no member", "a zero"],
)
def test_what_comes_behind_a_member_and_is_none_is_refused(behind: bytes, why: str) -> None:
    with pytest.raises(NotAnExport, match=why):
        _inflated(gzip.compress(b"one") + behind)


def test_a_body_of_nothing_but_empty_members_is_read_in_seconds() -> None:
    empty = gzip.compress(b"", mtime=0)
    begun = time.monotonic()
    assert _inflated(empty * (MAX_EXPORT // len(empty))) == b""
    assert time.monotonic() - begun < 20
