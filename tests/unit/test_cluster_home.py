"""The home folder: private, kept, refused where state must not live."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enchanted.cluster.errors import HomeRefused
from enchanted.cluster.home import Home, write_atomic, write_once
from enchanted.cluster.services import home_of
from enchanted.cluster.settings_sources import load


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_and_its_secrets_are_private_and_git_ignores_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    home.secret("nats")
    assert mode(home.path) == 0o700
    assert [mode(path) for path in (home.token, home.ray_token, home.secrets / "nats")] == [0o600] * 3
    assert (home.path / ".gitignore").read_text() == "*\n"


def test_a_second_preparation_keeps_the_secrets(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    before = (home.token.read_text(), home.ray_token.read_text(), home.secret("nats"))
    home.prepare()
    assert (home.token.read_text(), home.ray_token.read_text(), home.secret("nats")) == before
    assert len(set(before)) == 3


def test_the_lock_has_one_holder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = home.lock()
    assert first is not None
    assert home.lock() is None


def test_a_home_in_a_folder_ray_unpacked_is_refused(tmp_path: Path) -> None:
    uploaded = tmp_path / "session_2026-11-23" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    with pytest.raises(HomeRefused, match="inside a Ray runtime environment"):
        Home(uploaded / ".enchanted").prepare()
    assert not uploaded.exists()


def test_in_a_ray_job_the_default_home_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environment={}, folder=tmp_path).settings
    assert home_of(settings, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}).path == Path("~/.enchanted").expanduser()
    assert home_of(settings, {}).path == tmp_path / ".enchanted"


@pytest.mark.parametrize(
    "theirs", ["main.py", ".git/HEAD", ".bashrc", "settings.json", "services.json", "ports.json", ".gitignore~"]
)
def test_a_folder_with_files_of_others_is_no_home_and_stays_as_it_is(tmp_path: Path, theirs: str) -> None:
    folder = tmp_path / "project"
    for name in (theirs, "logs/app.log", "store/spool/kept"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    folder.chmod(0o755)
    before = {path: (mode(path), path.is_file() and path.read_text()) for path in (folder, *folder.rglob("*"))}
    with pytest.raises(HomeRefused) as refused:
        Home(folder).prepare()
    assert refused.value.cause == f"{folder} holds other files"
    assert refused.value.remedy == f"name a new or empty folder, such as {folder}/.enchanted"
    assert {path: (mode(path), path.is_file() and path.read_text()) for path in (folder, *folder.rglob("*"))} == before
    Home(folder / ".enchanted").prepare()


class Cut(BaseException):
    """What a kill is here: nothing of ours runs after it."""


def test_what_a_start_that_was_killed_at_any_moment_leaves_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("mkdir", "chmod", "hardlink_to", "unlink")
    moments = 0
    for last in range(100):
        home, calls = Home(tmp_path / f"home{last}"), itertools.count()
        with monkeypatch.context() as patched:
            for name in steps:
                patched.setattr(Path, name, _until(last, calls, getattr(Path, name)))
            try:
                home.prepare()
                break
            except Cut:
                moments += 1
        home.prepare()
        assert home.ray_token.read_text()
    assert moments > 15, "every folder and every file is a moment"


def _until(last: int, calls: Iterator[int], real: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any, **options: Any) -> None:
        if next(calls) >= last:
            raise Cut
        real(*arguments, **options)

    return call


@pytest.mark.parametrize(
    "name",
    [
        *("lost+found/", ".gitkeep", ".gitignore", "enchanted.toml", "demo/1/README.md", "models/bundled/weights"),
        *("workspaces/run-1/repo.git/HEAD", "cache/serve/states/one", "nats/jetstream/x", "store/data/x", "token"),
        *(".ray_token.123.0123abcd", "..gitignore.7.89abcdef"),
    ],
)
def test_a_new_disk_and_what_comes_into_a_home_before_its_first_start_are_taken(tmp_path: Path, name: str) -> None:
    there = tmp_path / name
    (there if name.endswith("/") else there.parent).mkdir(parents=True, exist_ok=True)
    if not name.endswith("/"):
        there.write_text("here before")
    Home(tmp_path).prepare()
    assert there.is_dir() or there.read_text() == "here before"


@pytest.mark.parametrize("sign", ["ray_token", "supervisor.lock", "start.lock"])
def test_a_home_that_was_used_is_taken_whatever_else_is_put_into_it(tmp_path: Path, sign: str) -> None:
    for name in (sign, "settings.json", "plots.svg"):
        (tmp_path / name).write_text("here before")
    Home(tmp_path).prepare()
    assert (tmp_path / "plots.svg").exists()


def test_a_folder_of_our_own_name_may_hold_a_key_before_the_first_start(tmp_path: Path) -> None:
    home = Home(tmp_path / ".enchanted")
    home.path.mkdir()
    (home.path / "openai.key").write_text("key")
    home.prepare()
    assert home.ray_token.exists()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeRefused, match="cannot be used"):
        Home(tmp_path / "file" / "home").prepare()


def test_a_home_on_a_file_system_without_room_is_not_called_a_full_disk() -> None:
    with pytest.raises(HomeRefused, match="cannot be used"):
        Home(Path("/proc/enchanted-home")).prepare()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "is read-only"), (errno.EIO, "is read-only"), (errno.EPERM, "")]
)
def test_a_disk_that_takes_no_writes_is_called_read_only_and_rights_are_not_the_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    assert Home(tmp_path).disk_trouble(0) == ""
    assert Home(tmp_path).disk_trouble(1 << 60).startswith("is full, ")
    monkeypatch.setattr(os, "utime", refuse)
    assert Home(tmp_path).disk_trouble(0).startswith(said)
    assert bool(Home(tmp_path).disk_trouble(0)) is bool(said)


def test_a_file_written_once_is_kept_and_one_written_atomically_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_once(path, "one")
    write_once(path, "two")
    assert path.read_text() == "one"
    write_atomic(path, "three")
    assert path.read_text() == "three"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, real, flushed = tmp_path / "secret", os.fsync, list[tuple[str, bool]]()

    def fsync(descriptor: int) -> None:
        flushed.append((os.path.realpath(f"/proc/self/fd/{descriptor}"), secret.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_once(secret, "text")
    (draft, named_early), folder = flushed
    assert (Path(draft).parent, named_early, folder) == (tmp_path, False, (str(tmp_path), True))
    assert secret.read_text() == "text"
