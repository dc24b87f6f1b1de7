"""Files that are not as they were written. For tests; see tests/chaos/test_corruption.py.

Both go through the page cache, so whoever reads the file next sees them; what a process keeps in its own memory it has
to let go first.
"""

from __future__ import annotations

import os
import random
from pathlib import Path


def flip(path: Path, at: int, bit: int) -> None:
    """One bit of a file the other way round."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def flip_somewhere(path: Path, chance: random.Random) -> None:
    """Any one bit."""
    flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))


def cut_short(path: Path, chance: random.Random) -> None:
    """The file ends early, anywhere."""
    os.truncate(path, chance.randrange(path.stat().st_size))
