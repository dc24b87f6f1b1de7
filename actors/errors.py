"""One class per condition; every message names the remedy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from enchanted.schemas.errors import PortableError


class ActorError(PortableError):
    """Base of everything the swarm can object to."""


class GitTooOld(ActorError):
    """The installed git lacks what the workspaces need."""

    def __init__(self, found: str) -> None:
        super().__init__(f"git 2.38 or newer with SHA-256 repositories is needed, found {found}; install a newer git")


_CHECK_GIT = "; run `enchanted doctor` to check git and the disk"


class GitFailed(ActorError):
    """A git command ended with an error."""

    def __init__(self, arguments: Sequence[str | bytes], why: str) -> None:
        command = " ".join(str(part) if isinstance(part, str) else repr(part) for part in arguments[:6])
        super().__init__(f"git {command}: {why[:2000]}{_CHECK_GIT}")
        self.why = why

    @staticmethod
    def is_told_by(reason: str) -> bool:
        """Whether a transition's reason is such an error."""
        return reason.startswith("git ") and reason.endswith(_CHECK_GIT)


@contextmanager
def disk_as_git(*arguments: str) -> Iterator[None]:
    """What the disk refuses us is told as if the git command beside it had been refused: whoever catches that goes on.

    Raises:
        GitFailed: the disk refused something.
    """
    try:
        yield
    except OSError as error:
        raise GitFailed(arguments, str(error)) from error


class NotARepository(ActorError):
    """The folder is not in a git repository."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} is not a git repository; run `git init` there and commit, or give another --repo")


class EmptyRepository(ActorError):
    """The repository has no commit to start from."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} has no commits; run `git add -A && git commit` there first")


class UnsafePath(ActorError):
    """A path leaves the workspace, reaches git's own files, or is no regular file."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{_short(path)}: {why}; use a path relative to the workspace's root")
        self.why = why


class FileTooLarge(ActorError):
    """A changed file is over the size limit of a workspace."""

    def __init__(self, path: object, size: int, limit: int) -> None:
        super().__init__(f"{_short(path)} has {size} bytes, the limit is {limit}; remove it or add it to .gitignore")


class ToolRefused(ActorError):
    """A tool cannot do what its arguments ask for; the message says what would work."""


class UnsupportedFile(ActorError):
    """Something that git cannot hold: a pipe, a socket, a device."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{_short(path)} is neither a file nor a symbolic link; remove it")


class BadPatch(ActorError):
    """A patch does not apply to the tree it was given."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the patch does not apply: {why}; make it anew against this tree")


class MissingContent(ActorError):
    """A tree has no such file, or the repository no such object."""

    def __init__(self, what: object) -> None:
        super().__init__(f"there is no {_short(what)}; list the tree for the paths it has")


class BaseMissing(ActorError):
    """The user's repository has not got the commit a run began with."""

    def __init__(self, folder: object, commit: str) -> None:
        super().__init__(
            f"{folder} has no commit {commit[:12] or '(unknown)'}, which the run began with; fetch it there, or put "
            "the files into a folder: enchanted restore RUN --into FOLDER"
        )


class BranchExists(ActorError):
    """The branch to write is there with other content."""

    def __init__(self, branch: str) -> None:
        rename = f"git branch -m {shlex.quote(branch)} NEW_NAME"
        super().__init__(f"branch {branch} exists with other content; rename it: {rename}")


class BranchRefused(ActorError):
    """Git cannot make the branch, for another reason than that it is there."""

    def __init__(self, branch: str, why: str) -> None:
        super().__init__(f"branch {_short(branch)} cannot be made: {why[:1000]}; put that right, or give another name")


class BadBranchName(ActorError):
    """Git takes it for no name of a branch."""

    def __init__(self, branch: str) -> None:
        super().__init__(f"{_short(branch)} is no name for a branch; give one such as restored/monday")


class CannotApply(ActorError):
    """A branch cannot be brought into the user's working tree safely."""

    def __init__(self, why: str, branch: str) -> None:
        super().__init__(f"{why}; nothing was changed, merge by hand: git merge {shlex.quote(branch)}")


class CannotRebuild(ActorError):
    """A tree of a run cannot be made again from the run's log."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; the base bundle on the bus and every patch since are needed: `enchanted verify RUN`")


class TreeNotMade(CannotRebuild):
    """A change begins at a tree that nothing before it made here."""

    def __init__(self, tree: str) -> None:
        super().__init__(f"it begins at tree {tree[:80]!r}, which no change before it leads to")


OF_THE_LOG = (BadPatch, CannotRebuild, MissingContent)
"""What only a run's own patches and bundles cause: a check ends in them at any other time too."""


class TargetChanged(ActorError):
    """Files in a folder would be overwritten that nothing else has."""

    def __init__(self, folder: object, paths: Sequence[str]) -> None:
        super().__init__(
            f"{_listed(paths)} in {folder} would be lost: neither git nor an earlier restore knows them as they are "
            "now; commit them, or overwrite them with --force, which keeps them in the safety snapshot"
        )


class TargetBlocked(ActorError):
    """Something lies where a restore must write, and is not its to take away."""

    def __init__(self, folder: object, paths: Sequence[str]) -> None:
        super().__init__(f"{folder} cannot be restored into: {_listed(paths)}; move it, or give another --into")


class TargetReserved(ActorError):
    """The folder is none that files may be put into."""

    def __init__(self, folder: object, whose: str) -> None:
        super().__init__(f"{_short(folder)} is not restored into: it belongs to {whose}; give another --into")


class TargetNoFolder(ActorError):
    """A file lies where the folder must be."""

    def __init__(self, folder: object, path: object) -> None:
        super().__init__(f"{_short(folder)} cannot be restored into: {_short(path)} is no folder; give another --into")


class TargetTooLarge(ActorError):
    """More files than the records of a restore may name."""

    def __init__(self, folder: object, limit: int) -> None:
        super().__init__(
            f"the record of this restore in {folder} would have more than {limit} bytes, so nothing was changed; "
            "restore such a tree onto a branch: --branch NAME"
        )


class TargetUnfinished(ActorError):
    """Another restore was cut off in this folder."""

    def __init__(self, folder: object, label: str) -> None:
        super().__init__(f"{folder} is between two states: {label} was cut off; finish that one first by the same call")


class TargetStopped(ActorError):
    """The file system does not let a restore take a step."""

    def __init__(self, folder: object, path: object, why: str, *, snapshot: str = "") -> None:
        kept = f"; what was there is kept in {snapshot}" if snapshot else ""
        super().__init__(
            f"{_short(path)} in {folder} cannot be read or written ({why}); put that right (chmod u+rwx its folder, "
            f"make room, move away what lies there) and give the same command again, which goes on from there{kept}"
        )


class TargetBusy(ActorError):
    """Another restore is at work in this folder."""

    def __init__(self, folder: object) -> None:
        super().__init__(f"another restore is at work in {folder}; wait for its end")


class OutOfTime(ActorError):
    """The run used all the wall time it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the run's budget of {seconds:.0f} s is spent; raise ENCHANTED_BUDGET__SECONDS")


class LogBroken(ActorError):
    """A run that is taken up again has a log that is not what its agents wrote."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(
            f"the run's log does not verify from sequence {seq} on ({why}), so nothing is built on it; "
            "`enchanted recover RUN` names the last valid state and how to go on from there"
        )


class SandboxUnavailable(ActorError):
    """No sandbox works on this machine."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"no sandbox works here ({why}); install bubblewrap and allow user namespaces "
            "(kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined), "
            "or accept the risk with --unsafe-no-sandbox"
        )


class CommandNotRun(ActorError):
    """A command was not started, or what became of the files after it is not known: it says nothing."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the command was not run ({why[:300]}); free memory, processes and disk on this machine")


class ToolNotRun(ActorError):
    """A tool whose answer is taken for a fact gave none."""

    def __init__(self, tool: str, tries: int, why: str) -> None:
        cause = why.partition("; ")[0][:600]
        super().__init__(
            f"{_short(tool)} did not run, in {tries} tries ({cause}); run `enchanted doctor`, free memory and disk, or "
            "raise ENCHANTED_SANDBOX__SECONDS and ENCHANTED_SANDBOX__MEMORY_MB, then start the run again"
        )


def _listed(paths: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(_short(path) for path in paths[:limit]) + more


def _short(value: object, limit: int = 200) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[:limit] + "…"
