"""A token file that is none: said, and nothing of it shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchanted.cluster.commands.reading_access import api
from enchanted.cluster.errors import CommandFailed


@pytest.mark.parametrize(
    "content", ["", "short", "export SECRET=canary-1\nexport OTHER=canary-2\n", "ü" * 20, "\0" * 20]
)
def test_what_is_in_a_wrong_token_file_is_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "env.sh"
    path.write_text(content)
    with pytest.raises(CommandFailed) as caught, api("http://127.0.0.1:1", path):
        pass
    assert caught.value.exit_code == 2
    assert "holds no token" in str(caught.value)
    assert "canary" not in str(caught.value)
