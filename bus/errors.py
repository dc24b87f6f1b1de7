"""One class per condition; every message names the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enchanted.schemas.errors import PortableError


class BusError(PortableError):
    """Base of everything the bus can object to."""


class BusUnreachable(BusError):
    """No server answered in time."""

    exit_code = 4

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"no NATS server answers at {where} ({why}); start it with `enchanted up` or check the URL")


class BusAccessDenied(BusError):
    """The server does not accept the credentials."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the NATS server at {where} refuses these credentials ({why}); check user and password")


class BusNotTrusted(BusError):
    """The server's TLS certificate does not prove that it is the server of the URL."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"the certificate of the NATS server at {where} is not trusted ({why}); set SSL_CERT_FILE to the file of "
            "the authority that signed it, and use a host name in the URL that the certificate has"
        )


class BusClosed(BusError):
    """The connection was closed on our side."""

    def __init__(self) -> None:
        super().__init__("the bus is closed; open a new one with `async with Bus.connect(url)`")


class BusUnavailable(BusError):
    """A request got no answer, or one that says to come back later; what it asked for may or may not have happened."""

    exit_code = 4

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}; the server may be restarting, try again")


class ApiRefused(BusError):
    """JetStream answered a request with an error."""

    def __init__(self, what: str, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{what}: JetStream refuses: {self.description} (code {self.code}, error {self.err_code})")


class PublishRefused(BusError):
    """A definite refusal: nothing was stored."""


class PayloadTooLarge(PublishRefused):
    """The message is larger than the stream or the server takes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes exceeds {limit}; move large fields to the blob store")


class InvalidSubject(PublishRefused):
    """The subject cannot be published to."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject[:100]!r} is no subject to publish to; build it with enchanted.bus.subjects")


class StreamFull(PublishRefused):
    """The stream's size limit, or the disk, is reached."""

    def __init__(self, subject: str, why: str) -> None:
        super().__init__(
            f"the stream for {subject} is full ({why}); raise its max_bytes (`nats stream edit --max-bytes`, "
            "and StreamLimits for new homes) or free disk space"
        )


class StreamMissing(PublishRefused):
    """No stream takes the subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"no stream takes {subject}; create the streams with Bus.ensure_streams()")


class StateConflict(PublishRefused):
    """Somebody else extended the state first."""

    def __init__(self, subject: str, expected: int, why: str) -> None:
        super().__init__(
            f"the last event of {subject} is not {expected} ({why}); read the run again and rebase the change"
        )


class PublishForbidden(PublishRefused):
    """The stream refuses the message for a reason retries cannot change."""

    def __init__(self, subject: str, why: str) -> None:
        super().__init__(
            f"the stream refuses a message to {subject}: {why}; compare its settings with ensure_streams()"
        )


class PublishOutcomeUnknown(BusError):
    """No acknowledgement within the retry time: the message may or may not be stored."""

    def __init__(self, count: int, seconds: float, why: str) -> None:
        super().__init__(
            f"{count} message(s) not acknowledged within {seconds:.0f} s ({why}); check the disk (a full one silences "
            "the server until it is started again) and look the event ids up in the stream before publishing them again"
        )


class PartlyPublished(BusError):
    """The messages before one that was refused are stored; the refusal is the cause."""

    def __init__(self, stored: int, total: int) -> None:
        self.stored = stored
        super().__init__(f"{stored} of {total} messages are stored, the next was refused; publish only the rest again")


class StreamDiffers(BusError):
    """A stream exists with other settings than ours; it is never altered silently."""

    def __init__(self, stream: str, differences: Mapping[str, tuple[object, object]]) -> None:
        self.differences = dict(differences)
        listed = ", ".join(f"{name} is {is_!r}, wanted {want!r}" for name, (is_, want) in differences.items())
        super().__init__(f"stream {stream} has other settings: {listed}; edit the stream or change the settings")


class StreamMadeAgain(BusError):
    """The stream that was read is gone, and another one has its name and counts from one."""

    def __init__(self, stream: str, after: int) -> None:
        super().__init__(f"stream {stream} was made again while it was read after {after}; read it from the beginning")


class MessageMissing(BusError):
    """The stream has no message with this sequence."""

    def __init__(self, stream: str, seq: int) -> None:
        super().__init__(f"{stream} has no message {seq}; it may be older than the retention, read it from the table")


class BlobUnusable(BusError):
    """What an event names in the object store cannot be had, or is not of it."""


class BlobMissing(BlobUnusable):
    """The object store has no such blob."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"no blob {sha256} in the object store; the event that names it is older than its content")


class BlobUnfit(BlobUnusable):
    """An event says that a field was moved out which it does not have, or whose content is none of that field."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(
            f"field {field[:80]!r} cannot be put back: {why}; whoever wrote the event has to write it right"
        )


class BlobCorrupt(BlobUnusable):
    """The stored bytes do not have the hash they are kept under."""

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(
            f"blob {sha256} reads back as {found}; its stored bytes are damaged, bring them back from a copy"
        )
