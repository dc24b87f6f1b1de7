"""An event, and pages of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ListedEvent(BaseModel):
    """Every field of SwarmEvent by its name in the .proto (unset ones are left out), and these; or those asked for."""

    model_config = ConfigDict(extra="allow")

    seq: int
    """JetStream stream sequence."""
    kind: str
    event_id: str = ""
    stream_time: str = ""
    """When the stream stored it."""
    subject: str = ""
    sha256: str = ""
    """Of the published bytes."""
    corrupted: bool = False
    """The stored bytes are not the published ones."""


class EventDocument(ListedEvent):
    """A whole event."""

    stream_time: str
    subject: str
    sha256: str


class PageMeta(BaseModel):
    """Where the next page is."""

    cursor: str | None
    """Absent at the end."""


class EventPage(BaseModel):
    """Events in stream order."""

    data: list[ListedEvent]
    meta: PageMeta
