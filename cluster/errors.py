"""One class per condition: what went wrong, what to do about it, and the exit code it ends a command with."""

from __future__ import annotations

from pathlib import Path

DONE = 0
CHECK_FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
INTERRUPTED = 130
READER_GONE = 141
"""As a program ends that SIGPIPE killed: nobody reads its output any more."""


class ClusterError(Exception):
    """Base: one line of cause and one line of remedy."""

    exit_code = UNREACHABLE

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class SettingsInvalid(ClusterError):
    """A setting is unknown or has a value that cannot be used."""

    exit_code = USAGE


class HomeRefused(ClusterError):
    """The home folder is in a place where state must not live."""

    exit_code = USAGE


class PortTaken(ClusterError):
    """Another program listens where one of our services should."""

    exit_code = USAGE

    def __init__(self, service: str, port: int, setting: str) -> None:
        super().__init__(
            f"port {port} for {service} is taken by another program",
            f"set ENCHANTED_{setting.upper()} to another port, or to 0 for a free one",
        )


class ServiceFailed(ClusterError):
    """A service did not become healthy, or stopped and does not come back."""

    def __init__(
        self, service: str, cause: str, remedy: str = "", *, final: bool = True, exit_code: int = UNREACHABLE
    ) -> None:
        super().__init__(f"{service}: {cause}", remedy or "`enchanted doctor` checks what it needs")
        self.service = service
        self.exit_code = exit_code
        self.final = final
        """Trying again would not help."""


class StartTimedOut(ClusterError):
    """The services are not healthy before the deadline."""

    def __init__(self, waiting_for: str, seconds: float, logs: Path) -> None:
        super().__init__(
            f"not healthy after {seconds:.0f} s; still waiting for {waiting_for}",
            f"read the logs in {logs}, then run `enchanted down` and `enchanted up` again",
        )


class NotRunning(ClusterError):
    """No services run for this home."""

    def __init__(self, home: Path) -> None:
        super().__init__(f"no services run for {home}", "start them with `enchanted up`")


class StillRunning(ClusterError):
    """Processes of this home did not end."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(
            f"processes {', '.join(map(str, pids))} did not end", "run `enchanted down` again, or end them by hand"
        )


class DurabilityMissing(ClusterError):
    """The bus acknowledges before it has written to the disk."""


class RayUnreachable(ClusterError):
    """The Ray cluster that RAY_ADDRESS names does not answer."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"Ray at {address} cannot be joined: {why}",
            "check RAY_ADDRESS and the token (RAY_AUTH_TOKEN_PATH), or unset RAY_ADDRESS for a Ray of our own",
        )


class RayTaken(ClusterError):
    """The Ray cluster to join serves another home."""

    exit_code = USAGE

    def __init__(self, address: str, home: Path) -> None:
        super().__init__(
            f"Ray at {address} already serves the home {home}",
            f"use that one (ENCHANTED_HOME={home}), or stop it with `enchanted down`",
        )


class SubmitFailed(ClusterError):
    """The Ray cluster did not take the job."""


class RepositoryRefused(ClusterError):
    """The folder that was named is not one the agents can work on."""

    exit_code = USAGE


class TargetIsFolder(ClusterError):
    """A folder is where a file should be written."""

    exit_code = USAGE

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is a folder", f"name a file, such as {path / 'NAME'}")


class FileNotWritten(ClusterError):
    """The system does not let a file be written where it was asked for."""

    exit_code = USAGE

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be written: {why}", "name another file, in a folder of yours that has room")


class CommandFailed(ClusterError):
    """A command cannot do what was asked; carries its own exit code."""

    def __init__(self, cause: str, remedy: str, exit_code: int) -> None:
        super().__init__(cause, remedy)
        self.exit_code = exit_code
