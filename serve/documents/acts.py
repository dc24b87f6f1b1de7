"""The answers of the acting verbs, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class RestoreDocument(BaseModel):
    """What a restore did, or would do."""

    run_id: str
    at: int
    workspace: str
    tree: str
    dry_run: bool
    into: str = ""
    write: list[str]
    delete: list[str] = []
    same: int = 0
    """Files that are there already as they should be."""
    kept: int = 0
    """Other files in the folder, which stay."""
    keep: list[str] = []
    """The first hundred of them."""
    dirty: list[str] = []
    """Of what would be written or deleted: files that neither git nor an earlier restore knows as they are now."""
    blocked: list[str] = []
    """What lies in the way and has to be moved by hand."""
    unfinished: str = ""
    """A restore that was cut off in this folder, in words."""
    snapshot: str = ""
    """Folder with the files as they were."""
    branch: str = ""
    repo: str = ""
    commit: str = ""


class UndoneVariable(BaseModel):
    """A variable that was taken back."""

    name: str
    was_set: bool
    before: Any = None
    """What it held; absent where it was not set."""
    is_set: bool
    after: Any = None
    """What it holds again; absent where it is not set."""


class UndoDocument(BaseModel):
    """What an undo did, or would do; one of a variable has no trees and no files."""

    run_id: str
    event_id: str
    workspace: str
    previous_tree: str
    tree: str
    files: list[str]
    patch: str
    variable: UndoneVariable | None = None
    """Where the change was of a variable."""
    undo_event_id: str
    """The change that records it; empty for a dry run."""
    seq: int
    branch: str
    """What became of the run's branch, in words."""
