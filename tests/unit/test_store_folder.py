"""The folder's lock, the credentials file and request bodies."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import lz4.frame
import pytest
from backports import zstd

from enchanted.cluster.store.body import Body
from enchanted.cluster.store.credentials import create, load
from enchanted.cluster.store.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    BodyUnreadable,
    CredentialsUnreadable,
    EngineRefused,
    FolderHeld,
)
from enchanted.cluster.store.lock import LOCK_NAME, FolderLock


def test_a_held_folder_names_its_holder(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(FolderHeld, match=f"process {os.getpid()} "):
        FolderLock(tmp_path).__enter__()


def test_a_lock_left_behind_is_free(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": 1, "started": 0.0}))

    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_credentials_are_made_once_and_only_for_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "home" / "credentials.json"

    made = load(path)

    assert load(path) == create(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.right(made.writer.user, made.writer.password) == "writer"
    assert made.right(made.reader.user, made.reader.password) == "reader"


def test_credentials_are_on_the_disk_before_they_have_their_name_and_then_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, flushed = tmp_path / "store.json", os.fsync, list[tuple[int, bool]]()

    def fsync(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    load(path)
    # A link has the number of the file it was made from.
    assert flushed == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    credentials = load(tmp_path / "c.json")

    with pytest.raises(AuthenticationFailed):
        credentials.right(credentials.writer.user, credentials.reader.password)


def test_a_broken_credentials_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}")

    with pytest.raises(CredentialsUnreadable):
        load(tmp_path / "c.json")


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("encoding", ["", "lz4", "zstd"])
async def test_a_body_of_several_frames_is_read_whole(tmp_path: Path, encoding: str) -> None:
    plain = os.urandom(200_000)
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}[encoding]
    sent = pack(plain[:50_000]) + pack(plain[50_000:])
    body = Body(tmp_path)

    await body.fill(_pieces(sent, 7_001), encoding)

    assert b"".join(body.chunks(0)) == plain
    assert b"".join(body.chunks(199_990)) == plain[199_990:]
    body.close()


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BodyTooLarge):
        await Body(tmp_path).fill(_pieces(lz4.frame.compress(bytes(100_000)), 100), "lz4", limit=50_000)


@pytest.mark.parametrize("sent", [b"not lz4 at all", lz4.frame.compress(bytes(1000))[:-6]])
async def test_a_damaged_body_is_refused(tmp_path: Path, sent: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        await Body(tmp_path).fill(_pieces(sent, 100), "lz4")


def test_an_engine_error_keeps_its_code_and_name() -> None:
    error = EngineRefused("Streaming failed: Code: 60. DB::Exception: Unknown table nope. (UNKNOWN_TABLE)")

    assert (error.code, error.name, error.status) == (60, "UNKNOWN_TABLE", 404)
    assert error.body.startswith("Code: 60. DB::Exception")
