"""For tests: small user repositories made by the real git."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from enchanted.actors.repository.git import Git

_PERSON = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "A User"), ("EMAIL", "user@example.org"))
}


def make_repository(folder: Path, files: Mapping[str, str | bytes], *, object_format: str = "sha1") -> Git:
    """A repository with one commit of ``files``; gives git in it, with an author's name set."""
    folder.mkdir(parents=True, exist_ok=True)
    git = Git(cwd=folder, environment=_PERSON, settings=["core.compression=0"])
    git.run("init", "-q", "-b", "main", f"--object-format={object_format}")
    # The bytes given are the bytes committed, whatever a .gitattributes among them says.
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "attributes").write_text("* -text -eol -ident -filter\n")
    write_files(folder, files)
    git.run("add", "-A")
    git.run("commit", "-q", "--allow-empty", "-m", "first")
    return git


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files and the folders they need; a path may hold any byte, as `os.fsdecode` spells it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(content) if isinstance(content, str) else content)
