"""The shadow repository, workspaces and merges, on the real git."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enchanted.actors.errors import (
    BadBranchName,
    BadPatch,
    BaseMissing,
    BranchExists,
    BranchRefused,
    CannotApply,
    EmptyRepository,
    FileTooLarge,
    GitTooOld,
    MissingContent,
    NotARepository,
    UnsupportedFile,
)
from enchanted.actors.repository import user_repository
from enchanted.actors.repository.git import Git, require_git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.merge_queue import Conflict, Merged, MergeQueue
from enchanted.actors.repository.tree_store import EMPTY_TREE, TreeStore
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.testing import make_repository, write_files

ODD_NAMES = (
    "-rf",
    "line\nbreak",
    'quo"te',
    "back\\slash",
    " space ",
    "tab\t",
    "ü/ñ.py",
    ":(top)x",
    os.fsdecode(b"\xff\xfe"),
)
FILES: dict[str, str | bytes] = {
    "a.py": "one\ntwo\nthree\nfour\nfive\nsix\nseven\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "latin.txt": b"caf\xe9\n",
    "binary.bin": bytes(range(256)) * 10,
    "empty": "",
    "folder/deep/file.txt": "x",
    ".gitattributes": "* text=auto eol=crlf ident filter=evil\n*.py diff=none -diff merge=union\n",
    ".gitignore": "ignored/\n",
    **{name: f"content of {name!r}" for name in ODD_NAMES},
}


@pytest.fixture
def user(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    git = make_repository(folder, FILES)
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    git.run("add", "-A")
    git.run("commit", "-q", "-m", "second")
    return folder


@pytest.fixture
async def shadow(tmp_path: Path, user: Path) -> ShadowRepository:
    return await ShadowRepository.create(tmp_path / "repo.git", user)


@pytest.fixture
async def workspace(tmp_path: Path, shadow: ShadowRepository) -> Workspace:
    return await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree)


def everything(folder: Path) -> dict[str, bytes]:
    """All files but git's own; a link as its target, an executable marked."""
    found = {}
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        for path in (Path(current, name) for name in files if name != ".git"):
            content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            mark = "+x" if not path.is_symlink() and path.stat().st_mode & 0o100 else ""
            found[str(path.relative_to(folder)) + mark] = content
    return found


async def tree_of(workspace: Workspace, files: dict[str, str | bytes]) -> str:
    await workspace.reset(workspace.repository.base_tree)
    write_files(workspace.path, files)
    return await workspace.snapshot()


def test_an_old_or_missing_git_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    require_git.cache_clear()
    with pytest.raises(GitTooOld, match="install a newer git"):
        require_git()
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.37.9\n")
    (tmp_path / "git").chmod(0o755)
    with pytest.raises(GitTooOld, match=r"2\.37\.9"):
        require_git()
    require_git.cache_clear()


async def test_folders_without_a_commit_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotARepository, match="git init"):
            await ShadowRepository.create(tmp_path / "repo.git", missing)
    Git(cwd=tmp_path).run("init", "-q", "empty")
    with pytest.raises(EmptyRepository, match="git commit"):
        await ShadowRepository.create(tmp_path / "repo.git", tmp_path / "empty")
    with pytest.raises(NotARepository):
        await ShadowRepository.create(tmp_path / "repo.git", tmp_path / "empty" / ".git")


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_every_file_comes_out_as_it_went_in(tmp_path: Path, user: Path, object_format: str) -> None:
    if object_format == "sha256":
        user = tmp_path / "user256"
        make_repository(user, FILES, object_format="sha256")
    shadow = await ShadowRepository.create(tmp_path / "repo.git", user)
    workspace = await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree)
    assert everything(workspace.path) == everything(user)
    assert await workspace.snapshot() == shadow.base_tree
    assert len(shadow.base_tree) == 64


async def test_the_tree_id_is_what_stock_git_computes(tmp_path: Path, shadow: ShadowRepository, user: Path) -> None:
    plain = Git(cwd=user, git_dir=tmp_path / "plain.git", work_tree=user)
    Git(cwd=tmp_path).run("init", "-q", "--bare", "--object-format=sha256", "plain.git")
    (tmp_path / "plain.git" / "info").mkdir(exist_ok=True)
    (tmp_path / "plain.git" / "info" / "attributes").write_text("* -text -ident -filter\n")
    plain.run("add", "-A")
    assert plain.run("write-tree").decode().strip() == shadow.base_tree


async def test_a_dirty_tree_is_told_of_left_out_and_left_alone(tmp_path: Path, user: Path) -> None:
    write_files(user, {"a.py": "changed", "new.txt": "new"})
    before = everything(user)
    shadow = await ShadowRepository.create(tmp_path / "repo.git", user)
    assert shadow.source is not None
    assert shadow.source.dirty
    assert set(shadow.source.changed) == {"a.py", "new.txt"}
    assert await shadow.content(shadow.base_tree, "a.py") == FILES["a.py"].encode()  # type: ignore[union-attr]
    with pytest.raises(MissingContent):
        await shadow.content(shadow.base_tree, "new.txt")
    assert everything(user) == before


async def test_reading_a_repository_runs_none_of_its_commands(tmp_path: Path, user: Path) -> None:
    git, trap = Git(cwd=user), f"touch {tmp_path}/ran; cat"
    for name in (
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.none.command",
    ):
        git.run("config", name, trap)
    (user / ".git" / "hooks").mkdir(exist_ok=True)
    for hook in ("reference-transaction", "post-commit", "post-merge", "post-index-change"):
        (user / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\n{trap}\n")
        (user / ".git" / "hooks" / hook).chmod(0o755)
    os.utime(user / "a.py")
    shadow = await ShadowRepository.create(tmp_path / "repo.git", user)
    workspace = await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree)
    tree = await tree_of(workspace, {"a.py": "changed"})
    await shadow.export_branch(user, "enchanted/r1", tree, "work")
    assert not (tmp_path / "ran").exists()


async def test_a_bare_repository_and_submodules_are_understood(tmp_path: Path, user: Path) -> None:
    make_repository(tmp_path / "sub", {"x": "y"})
    git = Git(cwd=user, settings=["user.name=U", "user.email=u@example.org"])
    commit = Git(cwd=tmp_path / "sub").run("rev-parse", "HEAD").decode().strip()
    git.run("update-index", "--add", "--cacheinfo", f"160000,{commit},vendored/sub")
    (user / ".gitmodules").write_text('[submodule "vendored/sub"]\n\tpath = vendored/sub\n\turl = ../sub\n')
    git.run("add", ".gitmodules")
    git.run("commit", "-q", "-m", "a submodule")
    Git(cwd=tmp_path, settings=["protocol.file.allow=always"]).run("clone", "-q", "--bare", str(user), "bare.git")
    shadow = await ShadowRepository.create(tmp_path / "repo.git", tmp_path / "bare.git")
    assert shadow.source is not None
    assert shadow.source.bare
    assert not shadow.source.dirty
    assert shadow.source.submodules == ("vendored/sub",)
    tree = await tree_of(await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree), {"a.py": "changed"})
    await shadow.export_branch(tmp_path / "bare.git", "enchanted/r1", tree, "work")
    bare = Git(cwd=tmp_path / "bare.git")
    assert b"vendored/sub" in bare.run("ls-tree", "-r", "enchanted/r1")
    assert bare.run("diff", "--name-only", "main", "enchanted/r1") == b"a.py\n"
    assert bare.run("show", "enchanted/r1:.gitmodules").startswith(b'[submodule "vendored/sub"]')


async def test_a_made_repository_is_opened_as_it_was(tmp_path: Path, user: Path, shadow: ShadowRepository) -> None:
    git = Git(cwd=user, settings=["user.name=U", "user.email=u@example.org"])
    git.run("commit", "-q", "--allow-empty", "-m", "later")
    again = await ShadowRepository.create(shadow.folder, user)
    assert (again.base_tree, again.base_commit) == (shadow.base_tree, shadow.base_commit)
    assert again.source == shadow.source


async def test_a_large_binary_file_round_trips(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(50 << 20)
    make_repository(tmp_path / "user", {"big.bin": content, "a": "b"})
    shadow = await ShadowRepository.create(tmp_path / "repo.git", tmp_path / "user")
    assert await shadow.content(shadow.base_tree, "big.bin") == content
    rebuilt = await ShadowRepository.from_bundle(tmp_path / "other.git", await shadow.bundle(shadow.base_tree))
    assert rebuilt.base_tree == shadow.base_tree
    assert await rebuilt.content(rebuilt.base_tree, "big.bin") == content


async def test_a_bundle_rebuilds_exactly_its_tree(tmp_path: Path, workspace: Workspace, user: Path) -> None:
    shadow = workspace.repository
    rebuilt = await ShadowRepository.from_bundle(tmp_path / "other.git", await shadow.bundle(shadow.base_tree))
    copy = await Workspace.checkout(rebuilt, tmp_path / "copy", rebuilt.base_tree)
    assert everything(copy.path) == everything(user)
    empty = await ShadowRepository.from_bundle(tmp_path / "empty.git", await shadow.bundle(shadow.empty_tree))
    assert await empty.list(empty.base_tree) == ()
    with pytest.raises(MissingContent):
        await ShadowRepository.from_bundle(tmp_path / "broken.git", b"no bundle")


async def test_a_tree_is_listed_as_additions(shadow: ShadowRepository) -> None:
    files = {entry.path: entry for entry in await shadow.list(shadow.base_tree)}
    assert files["a.py"].size == len(FILES["a.py"])
    assert (files["a.py"].old_mode, files["a.py"].new_mode) == ("", "100644")
    assert files["run.sh"].new_mode == "100755"
    assert files["link"].new_mode == "120000"
    assert files["\\xff\\xfe"].path_hex == "fffe"


async def test_a_difference_shows_text_and_lists_files(workspace: Workspace) -> None:
    shadow = workspace.repository
    tree = await tree_of(workspace, {"a.py": "one\ntwo\nTHREE\n", "new": "n"})
    patch = await shadow.diff(shadow.base_tree, tree)
    assert "-three\n" in patch.text
    assert "+THREE\n" in patch.text
    sizes = {entry.path: (entry.old_mode, entry.new_mode, entry.size) for entry in patch.files}
    assert sizes == {"a.py": ("100644", "100644", 14), "new": ("", "100644", 1)}
    assert (await shadow.diff(tree, tree)).text == ""


async def test_a_side_that_is_not_utf8_is_diffed_as_binary(workspace: Workspace) -> None:
    shadow = workspace.repository
    tree = await tree_of(
        workspace, {"latin.txt": b"th\xe9\n", "a.py": "text\n", "*[x]?.txt": b"\xe8", " \\.txt": b"\xe8"}
    )
    patch = await shadow.diff(shadow.base_tree, tree)
    assert patch.text.count("GIT binary patch") == 3
    assert "+text\n" in patch.text
    assert await shadow.apply(shadow.base_tree, patch.text) == tree
    assert await shadow.apply(tree, patch.text, reverse=True) == shadow.base_tree


async def test_a_patch_for_another_tree_is_refused(workspace: Workspace) -> None:
    shadow = workspace.repository
    tree = await tree_of(workspace, {"a.py": "other\n"})
    patch = await shadow.diff(shadow.base_tree, tree)
    with pytest.raises(BadPatch):
        await shadow.apply(tree, patch.text)
    with pytest.raises(BadPatch):
        await shadow.apply(tree, patch.text.replace("a.py", "../a.py"))
    with pytest.raises(MissingContent):
        await shadow.apply("--output=/tmp/x", patch.text)


async def test_junk_ignored_files_and_empty_folders_are_no_state(workspace: Workspace) -> None:
    write_files(workspace.path, {"ignored/x": "x", "pkg/__pycache__/a.pyc": "x", "b.pyc": "x", ".ruff_cache/x": "x"})
    (workspace.path / "nothing" / "here").mkdir(parents=True)
    assert await workspace.snapshot() == workspace.repository.base_tree
    assert await workspace.ignores("ignored/y")
    assert not await workspace.ignores(":(top)y")


async def test_a_nested_repository_is_removed_and_never_state(workspace: Workspace) -> None:
    make_repository(workspace.path / "nested", {"x": "y"})
    (workspace.path / ".git").write_text("gitdir: /elsewhere")
    tree = await workspace.snapshot()
    assert not (workspace.path / ".git").exists()
    assert not (workspace.path / "nested" / ".git").exists()
    assert await workspace.repository.content(tree, "nested/x") == b"y"
    make_repository(workspace.path / "folder", {"x": "y"})
    assert await workspace.remove_nested_git() == ["folder/.git"]


async def test_files_a_tree_should_not_hold_are_named(tmp_path: Path, shadow: ShadowRepository) -> None:
    workspace = await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree, max_file_bytes=6000)
    (workspace.path / "huge").write_bytes(b"x" * 6001)
    with pytest.raises(FileTooLarge, match="huge"):
        await workspace.snapshot()
    (workspace.path / "huge").unlink()
    (workspace.path / "a.py").unlink()
    os.mkfifo(workspace.path / "a.py")
    with pytest.raises(UnsupportedFile, match=r"a\.py"):
        await workspace.snapshot()
    await workspace.reset(shadow.base_tree)
    assert await workspace.snapshot() == shadow.base_tree


@pytest.mark.parametrize("to", ["deep", "deep/file.txt", "../../outside", "/dev", "/nowhere"])
async def test_of_a_folder_that_became_a_link_the_link_is_the_state(
    tmp_path: Path, shadow: ShadowRepository, to: str
) -> None:
    write_files(tmp_path / "outside", {"file.txt": "x" * 6001})
    workspace = await Workspace.checkout(shadow, tmp_path / "work", shadow.base_tree, max_file_bytes=6000)
    folder = workspace.path / "folder" / "deep"
    shutil.rmtree(folder)
    folder.symlink_to(to)
    tree = await workspace.snapshot()
    listed = {one.path: one.new_mode for one in shadow.store.files(tree)}
    assert listed["folder/deep"] == "120000"
    assert "folder/deep/file.txt" not in listed
    await workspace.reset(shadow.base_tree)
    assert (folder / "file.txt").is_file()


async def test_a_reset_brings_back_the_exact_files(workspace: Workspace, user: Path, tmp_path: Path) -> None:
    (workspace.path / "a.py").unlink()
    (workspace.path / "folder" / "deep" / "file.txt").unlink()
    (workspace.path / "folder" / "deep").rmdir()
    (workspace.path / "folder" / "deep").symlink_to(tmp_path)
    (workspace.path / "run.sh").chmod(0o644)
    write_files(workspace.path, {"empty": "no longer", "new/file": "x"})
    (workspace.path / "new").chmod(0o500)
    assert await workspace.snapshot() != workspace.repository.base_tree
    await workspace.reset(workspace.repository.base_tree)
    assert everything(workspace.path) == everything(user)
    assert not (tmp_path / "file.txt").exists()


async def test_a_tracked_workspace_sees_what_it_was_told_of(workspace: Workspace) -> None:
    base = workspace.repository.base_tree
    workspace.track()
    write_files(workspace.path, {"a.py": "told", "empty": "untold"})
    workspace.mark("a.py")
    tree = await workspace.snapshot()
    assert [entry.path for entry in (await workspace.repository.diff(base, tree)).files] == ["a.py"]
    workspace.mark_unknown()
    tree = await workspace.snapshot()
    assert len((await workspace.repository.diff(base, tree)).files) == 2


async def test_a_marked_change_that_someone_else_takes_back_is_seen(workspace: Workspace) -> None:
    base = workspace.repository.base_tree
    workspace.track()
    write_files(workspace.path, {"a.py": "changed", "made": "x"})
    workspace.mark("a.py")
    workspace.mark("made")
    assert await workspace.snapshot() != base
    write_files(workspace.path, {"a.py": FILES["a.py"]})
    (workspace.path / "made").unlink()
    workspace.mark_unknown()
    assert await workspace.snapshot() == base


async def test_closing_removes_the_folder_and_can_be_repeated(workspace: Workspace) -> None:
    (workspace.path / "locked").mkdir(mode=0o500)
    await workspace.close()
    await workspace.close()
    assert not workspace.path.exists()


async def test_changes_of_different_lines_of_a_file_are_merged(workspace: Workspace) -> None:
    text, base = str(FILES["a.py"]), workspace.repository.base_tree
    ours = await tree_of(workspace, {"a.py": text.replace("one", "ONE")})
    theirs = await tree_of(workspace, {"a.py": text.replace("seven", "SEVEN"), "new": "n"})
    merged = await MergeQueue(workspace.repository).merge(base=base, ours=ours, theirs=theirs)
    assert isinstance(merged, Merged)
    content = await workspace.repository.content(merged.tree, "a.py")
    assert content.decode() == text.replace("one", "ONE").replace("seven", "SEVEN")


async def test_changes_of_the_same_lines_are_reported_never_overwritten(workspace: Workspace) -> None:
    text, base = str(FILES["a.py"]), workspace.repository.base_tree
    ours = await tree_of(workspace, {"a.py": text.replace("two", "ours"), "x": "ours"})
    theirs = await tree_of(workspace, {"a.py": text.replace("two", "theirs"), "x": "theirs"})
    queue = MergeQueue(workspace.repository)
    conflict, again = await asyncio.gather(*(queue.merge(base=base, ours=ours, theirs=theirs) for _ in range(2)))
    assert isinstance(conflict, Conflict)
    assert conflict == again
    assert set(conflict.paths) == {"a.py", "x"}
    assert "CONFLICT (content)" in conflict.text
    (workspace.path / "a.py").unlink()
    gone = await workspace.snapshot()
    assert isinstance(await queue.merge(base=base, ours=ours, theirs=gone), Conflict)


async def test_a_merge_with_nothing_on_one_side_is_the_other(workspace: Workspace) -> None:
    base, queue = workspace.repository.base_tree, MergeQueue(workspace.repository)
    other = await tree_of(workspace, {"a.py": "other"})
    assert await queue.merge(base=base, ours=base, theirs=other) == Merged(tree=other)
    assert await queue.merge(base=base, ours=other, theirs=base) == Merged(tree=other)


async def test_a_branch_gets_one_commit_and_nothing_else_moves(workspace: Workspace, user: Path) -> None:
    git = Git(cwd=user)
    (user / "a.py").unlink()
    tree = await tree_of(workspace, {"latin.txt": b"th\xe9\n", "new/one": "1", "ü/ñ.py": "gone on"})
    (workspace.path / "binary.bin").unlink()
    (workspace.path / "run.sh").chmod(0o644)
    tree = await workspace.snapshot()
    index = (user / ".git" / "index").read_bytes()
    before = git.run("status", "--porcelain"), git.run("rev-parse", "HEAD"), everything(user)
    commit = await workspace.repository.export_branch(user, "enchanted/r1", tree, "All the work\n\nAt once.")
    assert (git.run("status", "--porcelain"), git.run("rev-parse", "HEAD"), everything(user)) == before
    assert (user / ".git" / "index").read_bytes() == index
    assert git.run("log", "-1", "--format=%H %P %an %s", "enchanted/r1").decode().split(" ", 3)[:2] == [
        commit,
        workspace.repository.base_commit,
    ]
    assert git.run("for-each-ref", "--format=%(refname)").decode().split() == [
        "refs/heads/enchanted/r1",
        "refs/heads/main",
    ]
    git.run("worktree", "add", "-q", str(user.parent / "checked"), "enchanted/r1")
    assert everything(user.parent / "checked") == everything(workspace.path)


async def test_a_branch_is_written_once_and_never_overwritten(workspace: Workspace, user: Path) -> None:
    shadow = workspace.repository
    one, two = await tree_of(workspace, {"a.py": "1"}), await tree_of(workspace, {"a.py": "2"})
    commit = await shadow.export_branch(user, "enchanted/r1", one, "work")
    assert await shadow.export_branch(user, "enchanted/r1", one, "work") == commit
    with pytest.raises(BranchExists):
        await shadow.export_branch(user, "enchanted/r1", two, "work")
    assert Git(cwd=user).run("rev-parse", "enchanted/r1").decode().strip() == commit


@pytest.mark.parametrize("name", ["a..b", "-x", "@{-1}", "a b", "HEAD", "x.lock", "/a", ""])
async def test_a_name_that_git_takes_for_no_branch_is_refused_with_a_remedy(
    workspace: Workspace, user: Path, name: str
) -> None:
    shadow = workspace.repository
    tree = await tree_of(workspace, {"a.py": "1"})
    for write in (shadow.try_branch(user, name, tree), shadow.export_branch(user, name, tree, "work")):
        with pytest.raises(BadBranchName, match="give one such as"):
            await write


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("enchanted/r1/more", "branch enchanted/r1 exists"),
        ("enchanted/r1/a/b", "branch enchanted/r1 exists"),
        ("enchanted", "branch enchanted/r1 exists"),
        ("stale", "another git is at work on it, or left .*stale.lock behind"),
        ("x" * 256, "file name too long"),
        ("x" * 252, "file name too long"),
    ],
)
async def test_a_branch_that_git_cannot_make_is_refused_for_what_it_is_when_tried_too(
    workspace: Workspace, user: Path, name: str, words: str
) -> None:
    shadow, git = workspace.repository, Git(cwd=user)
    tree = await tree_of(workspace, {"a.py": "1"})
    await shadow.export_branch(user, "enchanted/r1", tree, "work")
    (user / ".git/refs/heads/stale.lock").touch()
    before = git.run("for-each-ref"), sorted((user / ".git/refs").rglob("*"))
    for write in (shadow.try_branch(user, name, tree), shadow.export_branch(user, name, tree, "work")):
        with pytest.raises(BranchRefused, match=rf"{words}.*; put that right, or give another name"):
            await write
    assert (git.run("for-each-ref"), sorted((user / ".git/refs").rglob("*"))) == before


async def test_what_git_says_against_a_branch_is_passed_on_and_a_branch_made_meanwhile_is_one_that_exists(
    workspace: Workspace, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow, git = workspace.repository, Git(cwd=user)
    tree = await tree_of(workspace, {"a.py": "1"})
    meanwhile = {
        "stale": (user / ".git/refs/heads/stale.lock").touch,
        "other": lambda: git.run("branch", "other"),
        "as-this": lambda: None,
    }
    monkeypatch.setattr(user_repository, "require_new", lambda _git, _folder, branch: meanwhile[branch]())
    with pytest.raises(BranchRefused, match=r"Unable to create '.*stale\.lock': File exists"):
        await shadow.export_branch(user, "stale", tree, "work")
    with pytest.raises(BranchExists):
        await shadow.export_branch(user, "other", tree, "work")

    # By a former orchestrator of the run that was not quite dead, say.
    made = await shadow.export_branch(user, "as-this", tree, "work")
    meanwhile["same"] = lambda: git.run("branch", "same", made)
    assert await shadow.export_branch(user, "same", tree, "work again") == made


async def test_a_branch_is_tried_without_a_trace_and_refused_as_it_would_be(workspace: Workspace, user: Path) -> None:
    shadow, git = workspace.repository, Git(cwd=user)
    one, two = await tree_of(workspace, {"a.py": "1"}), await tree_of(workspace, {"a.py": "2"})
    commit = await shadow.export_branch(user, "enchanted/r1", one, "work")
    before = git.run("cat-file", "--batch-all-objects", "--batch-check"), git.run("for-each-ref")
    assert await shadow.try_branch(user, "enchanted/r1", one) == commit
    assert await shadow.try_branch(user, "other", two) == ""
    with pytest.raises(BranchExists):
        await shadow.try_branch(user, "enchanted/r1", two)
    with pytest.raises(BaseMissing):
        await shadow.try_branch(user, "other", two, base_commit="0" * 40)
    assert (git.run("cat-file", "--batch-all-objects", "--batch-check"), git.run("for-each-ref")) == before


async def test_applying_is_a_fast_forward_of_a_clean_tree_or_nothing(workspace: Workspace, user: Path) -> None:
    shadow, git = workspace.repository, Git(cwd=user, settings=["user.name=U", "user.email=u@example.org"])
    commit = await shadow.export_branch(user, "enchanted/r1", await tree_of(workspace, {"a.py": "new\n"}), "work")
    (user / "a.py").write_text("mine\n")
    with pytest.raises(CannotApply, match="uncommitted"):
        await shadow.apply_to_working_tree(user, "enchanted/r1")
    assert (user / "a.py").read_text() == "mine\n"
    git.run("checkout", "-q", "--", "a.py")
    git.run("commit", "-q", "--allow-empty", "-m", "meanwhile")
    with pytest.raises(CannotApply, match="moved"):
        await shadow.apply_to_working_tree(user, "enchanted/r1")
    git.run("reset", "-q", "--hard", "HEAD^")
    await shadow.apply_to_working_tree(user, "enchanted/r1")
    await shadow.apply_to_working_tree(user, "enchanted/r1")
    assert git.run("rev-parse", "main").decode().strip() == commit
    assert (user / "a.py").read_text() == "new\n"


NAMES = st.sampled_from(["a", "b", "a/b", "a/c", "b/a/a", "-x", "n\nl", 'q"', "ü", os.fsdecode(b"\xe9"), " s", "[a]*"])
CONTENTS = st.one_of(
    st.sampled_from([b"", b"\n", b"x", b"x\ny\nz\n", b"x\r\ny\r\n", b"\xe9\n", b"a\0b", b"\xef\xbb\xbfx\n", b"\ry\r"]),
    st.binary(max_size=40),
    st.text("ab\n \t\r", max_size=60).map(str.encode),
)
ENTRIES = st.dictionaries(NAMES, st.tuples(st.sampled_from(["100644", "100755", "120000"]), CONTENTS), max_size=6)


def build(store: TreeStore, entries: dict[str, tuple[str, bytes]]) -> str:
    """A tree of the entries; where one is a folder of another, the later one wins."""
    with store.scratch_index() as index:
        git = Git(cwd=store.folder, git_dir=store.folder, index=index)
        git.run("read-tree", "--empty")
        lines = b""
        for path, (mode, content) in entries.items():
            data = (content.replace(b"\0", b"0") or b"x") if mode == "120000" else content
            blob = git.run("hash-object", "-w", "--stdin", stdin=data or b"").strip()
            lines += mode.encode() + b" " + blob + b"\t" + os.fsencode(path) + b"\0"
        git.run("update-index", "-z", "--index-info", stdin=lines)
        return git.run("write-tree").decode().strip()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TreeStore:
    return TreeStore.create(tmp_path_factory.mktemp("property") / "repo.git")


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(old=ENTRIES, new=ENTRIES)
def test_a_patch_gives_the_exact_tree_forwards_and_backwards(
    store: TreeStore, old: dict[str, tuple[str, bytes]], new: dict[str, tuple[str, bytes]]
) -> None:
    before, after = build(store, old), build(store, new)
    patch = store.diff(before, after)
    patch.text.encode()
    assert store.apply(before, patch.text) == after
    assert store.apply(after, patch.text, reverse=True) == before


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(ENTRIES, min_size=2, max_size=3))
async def test_whatever_files_become_the_snapshot_is_their_tree_and_a_reset_brings_them_back(
    workspace: Workspace, steps: list[dict[str, tuple[str, bytes]]]
) -> None:
    store, trees = workspace.repository.store, []
    for entries in steps:
        for path in list(workspace.path.iterdir()):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        trees.append(build(store, entries))
        put(workspace.path, entries)
        assert await workspace.snapshot() == trees[-1]
    await workspace.reset(trees[0])
    workspace.mark_unknown()
    assert await workspace.snapshot() == trees[0]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(old=ENTRIES, new=ENTRIES)
async def test_files_that_are_marked_give_the_tree_git_would_write(
    workspace: Workspace, old: dict[str, tuple[str, bytes]], new: dict[str, tuple[str, bytes]]
) -> None:
    await workspace.reset(build(workspace.repository.store, old))
    workspace.track()
    put(workspace.path, new)
    for name in (*old, *new):
        workspace.mark(name)
    tree = await workspace.snapshot()
    workspace.mark_unknown()
    assert await workspace.snapshot() == tree
    workspace.repository.store.git.run("fsck", "--strict", "--no-dangling", tree)


def put(folder: Path, entries: dict[str, tuple[str, bytes]]) -> None:
    """Write entries to a folder as `build` puts them into a tree."""
    for name, (mode, content) in entries.items():
        path = folder / name
        for parent in reversed(path.relative_to(folder).parents[:-1]):
            if not (folder / parent).is_dir() or (folder / parent).is_symlink():
                (folder / parent).unlink(missing_ok=True)
            (folder / parent).mkdir(exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if mode == "120000":
            path.symlink_to(os.fsdecode(content.replace(b"\0", b"0") or b"x"))
        else:
            path.write_bytes(content)
            path.chmod(0o755 if mode == "100755" else 0o644)


def test_the_empty_tree_has_the_id_everyone_knows(store: TreeStore) -> None:
    assert build(store, {}) == EMPTY_TREE
    assert store.diff("", EMPTY_TREE).text == ""


@pytest.mark.parametrize("name", [" x /a", "a ", " d", "x b/x", "a b/a b", " ", "back\\ slash", "new\nline x"])
@pytest.mark.parametrize("content", [b"", b"text\n", b"\0binary"])
def test_a_patch_of_a_name_with_spaces_applies_in_both_directions(tmp_path: Path, name: str, content: bytes) -> None:
    store = TreeStore.create(tmp_path / "repo.git")
    sides = [
        store.writer.with_files("", {os.fsencode(name): (mode, body)}) or ""
        for mode, body in (("100644", content), ("100755", content), ("100755", content + b"more\n"))
    ]
    for old, new in zip([EMPTY_TREE, *sides], [*sides, EMPTY_TREE], strict=True):
        patch = store.diff(old, new).text
        assert (store.apply(old, patch), store.apply(new, patch, reverse=True)) == (new, old)
