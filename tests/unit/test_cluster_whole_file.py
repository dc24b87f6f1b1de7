"""Files that commands write: whole or not at all, and what is open already as it is."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from enchanted.cluster.whole_file import written

WRITE = """
import sys
from pathlib import Path
from enchanted.cluster.whole_file import written
with written(Path(sys.argv[1])) as file:
    file.write(b"new\\n")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_a_file_that_a_shell_appends_to_keeps_what_is_in_it(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    (tmp_path / "link").symlink_to("/dev/stdout")
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / name)], stdout=output, check=True)
        output.write(b"later\n")
    assert log.read_text() == "old\nnew\nlater\n"


def test_what_is_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with suppress(KeyboardInterrupt), written(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_the_file_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with written(tmp_path / "link") as file:
        file.write(b"new")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "file").read_text()) == (True, "new")
