"""Where an embedded nats-server gathers the messages of a batch until it is committed: in memory.

For a stream without replicas the server (2.15) makes a file store for every batch, below ``batches`` in the stream's
folder, and removes it after the commit: some forty calls and four flushes, 6 to 10 ms here whatever the batch's size,
most of what a small batch costs. Nothing of it needs to last. What is staged was not acknowledged, the server throws it
away when it starts, and the commit writes and flushes the stream's own files. So ``batches`` becomes a link to a folder
in memory. Where there is no room for that, it is not, and everything works as it did.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from enchanted.bus.server_config import ACCOUNT
from enchanted.schemas.canonical import sha256_hex

MEMORY = Path("/dev/shm")
ENOUGH = 256 * 1024**2
"""Bytes free in memory to begin with: the server has at most 50 batches of 4 MiB open on a stream."""
SHORT = 64 * 1024**2
"""Bytes free below which the links are taken away again."""

log = logging.getLogger(__name__)


class BatchStaging:
    """The links of one server. `prepare` before it starts, `tend` every now and then while it runs, `remove` after."""

    def __init__(self, store_dir: Path, memory: Path = MEMORY) -> None:
        self._streams = store_dir.resolve() / "jetstream" / ACCOUNT / "streams"
        self._memory = memory
        self._folder = memory / f"enchanted-batches-{sha256_hex(str(self._streams))[:16]}"
        self._usable = False

    def prepare(self) -> None:
        """Make the folder anew; one that is somebody else's is left alone, and nothing is linked then."""
        self.remove()
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            log.info("batches are staged on disk: %s", error)
            return
        self._usable = True

    def tend(self) -> None:
        """Link the streams that are not linked yet; unlink all while memory is short."""
        if not self._usable or not self._streams.is_dir():
            return
        free = shutil.disk_usage(self._memory).free
        for stream in self._streams.iterdir():
            place = stream / "batches"
            if free < SHORT:
                _unlink(place)
            elif free >= ENOUGH and not place.is_symlink():
                _link(place, self._folder / stream.name)

    def remove(self) -> None:
        """Free the memory. Idempotent."""
        self._usable = False
        shutil.rmtree(self._folder, ignore_errors=True)


def _link(place: Path, target: Path) -> None:
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        if place.exists():
            # Only while no batch is open in it.
            place.rmdir()
        place.symlink_to(target)
    except OSError as error:
        log.debug("%s is not linked yet: %s", place, error)


def _unlink(place: Path) -> None:
    if not place.is_symlink():
        return
    try:
        place.unlink()
    except OSError as error:
        log.warning("memory is short, and batches of %s stay there: %s", place.parent.name, error)
    else:
        log.warning("memory is short: batches of %s are staged on disk", place.parent.name)
