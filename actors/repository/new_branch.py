"""Whether git could make a branch, told without writing anything."""

from __future__ import annotations

import os
from pathlib import Path

from enchanted.actors.errors import BranchRefused
from enchanted.actors.repository.git import Git


def require_new(git: Git, folder: Path, branch: str) -> None:
    """A branch that is not there yet can be made. ``git`` runs in ``folder``.

    Raises:
        BranchRefused: another branch has a part of its name, or its file cannot be made.
    """
    parts = branch.split("/")
    for other in ("/".join(parts[:end]) for end in range(1, len(parts))):
        if git.result("rev-parse", "--verify", "-q", f"refs/heads/{other}", ok=(0, 1))[0] == 0:
            raise BranchRefused(branch, f"branch {other} exists, and git keeps none below another")
    if below := git.run("for-each-ref", "--count=1", "--format=%(refname:lstrip=2)", f"refs/heads/{branch}/"):
        name = below.decode("utf-8", "backslashreplace").strip()
        raise BranchRefused(branch, f"branch {name} exists, and git keeps none above another")
    # Git makes the lock first, beside the branch's own file.
    lock = folder / os.fsdecode(git.run("rev-parse", "--git-path", f"refs/heads/{branch}.lock").rstrip(b"\n"))
    try:
        lock.lstat()
    except (FileNotFoundError, NotADirectoryError):
        above = next(place for place in lock.parents if place.exists())
        if above.is_dir() and not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise BranchRefused(branch, f"{above} cannot be written") from None
    except OSError as error:
        raise BranchRefused(branch, (error.strerror or str(error)).lower()) from error
    else:
        raise BranchRefused(branch, f"another git is at work on it, or left {lock} behind")
