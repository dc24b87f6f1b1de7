"""Files beneath one folder, and nowhere else."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from enchanted.actors.errors import ActorError, FileTooLarge, MissingContent, UnsafePath
from enchanted.actors.tools.confined_files import ConfinedFiles, forbidden_name, split_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("canary")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> ConfinedFiles:
    return ConfinedFiles(root, max_bytes=1000)


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../x", "a/../../x", "a//b", "a/./b", "/etc/passwd", "~/x", "C:\\x", "a\0b", "x" * 300,
        ".git/config", ".GIT/hooks/pre-commit", "sub/.git", "a/.Git/x", ".git /x", ".git./x", ".g\u200cit/config",
        "git~1/config", ".git::$INDEX_ALLOCATION/x", ".gitmodules", ".gitconfig", "\ud800", "a/" * 3000,
        5, None, ["a"],
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_folder_or_reaches_git_is_refused(path: object) -> None:
    with pytest.raises(UnsafePath):
        split_path(path)


@pytest.mark.parametrize("path", ["a", "./a/b.py", "-rf", "a b", 'q"x', ".gitignore", "git/x", "ü/ñ", ".github/x.yml"])
def test_ordinary_names_are_paths(path: str) -> None:
    assert split_path(path)[-1] == path.split("/")[-1]


def test_names_of_gits_own_are_known_as_bytes_too() -> None:
    assert forbidden_name(b".GiT")
    assert not forbidden_name(b"git")


def test_what_is_written_is_read_back_and_folders_are_made(files: ConfinedFiles, root: Path) -> None:
    files.write("a/b/c.txt", b"one")
    files.write("a/b/c.txt", b"two")
    assert files.read("a/b/c.txt") == b"two"
    assert [entry.name for entry in (root / "a" / "b").iterdir()] == ["c.txt"]


def test_the_executable_bit_is_kept(files: ConfinedFiles, root: Path) -> None:
    (root / "run").write_text("x")
    (root / "run").chmod(0o755)
    files.write("run", b"y")
    assert (root / "run").stat().st_mode & 0o777 == 0o755


def test_links_are_followed_nowhere(files: ConfinedFiles, root: Path) -> None:
    (root / "file").symlink_to("../outside/secret")
    (root / "folder").symlink_to("../outside")
    (root / "inside").symlink_to("real")
    (root / "real").write_text("x")
    for path in ("file", "folder/secret", "inside"):
        with pytest.raises(UnsafePath):
            files.read(path)
        with pytest.raises(UnsafePath):
            files.write(path, b"overwritten")
    with pytest.raises(UnsafePath):
        files.write("folder/new", b"x")
    assert (root.parent / "outside" / "secret").read_text() == "canary"
    assert len(list((root.parent / "outside").iterdir())) == 1


def test_hard_links_pipes_and_folders_are_refused(files: ConfinedFiles, root: Path) -> None:
    os.link(root.parent / "outside" / "secret", root / "hard")
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    for path in ("hard", "pipe", "folder"):
        with pytest.raises(UnsafePath):
            files.read(path)
        with pytest.raises(UnsafePath):
            files.write(path, b"overwritten")
    assert (root.parent / "outside" / "secret").read_text() == "canary"


def test_size_and_absence_have_their_own_errors(files: ConfinedFiles, root: Path) -> None:
    (root / "big").write_bytes(b"x" * 1001)
    with pytest.raises(FileTooLarge):
        files.read("big")
    with pytest.raises(FileTooLarge):
        files.write("new", b"x" * 1001)
    with pytest.raises(MissingContent):
        files.read("no/such")
    with pytest.raises(MissingContent):
        files.write("none", b"x", create=False)


def test_a_folder_swapped_for_a_link_while_files_are_written_never_leads_outside(
    files: ConfinedFiles, root: Path
) -> None:
    outside = root.parent / "outside"
    (root / "kept").mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                (root / "kept").rename(root / "aside")
            with suppress(OSError):
                (root / "kept").symlink_to(outside)
            with suppress(OSError):
                (root / "kept").unlink()
            with suppress(OSError):
                (root / "aside").rename(root / "kept")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(1000):
            with suppress(ActorError, OSError):
                files.write("kept/secret", b"stolen", create=False)
            with suppress(ActorError, OSError):
                files.write("kept/new", b"stolen")
            with suppress(ActorError, OSError):
                assert files.read("kept/secret") != b"canary"
    finally:
        stop.set()
        thread.join()
    assert (outside / "secret").read_text() == "canary"
    assert [entry.name for entry in outside.iterdir()] == ["secret"]
