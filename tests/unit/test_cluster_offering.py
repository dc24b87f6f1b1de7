"""What `--variable` takes, and what a command asks the API for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.testing import make_repository
from enchanted.cluster import cli
from enchanted.cluster.commands import run
from enchanted.cluster.commands.offering import offered
from enchanted.cluster.errors import USAGE, CommandFailed


def test_values_are_split_at_commas_and_a_name_given_again_has_more_of_them() -> None:
    assert offered(["LEVEL=debug,trace", "MODE=", "LEVEL=debug,a=b"]) == {
        "LEVEL": ["debug", "trace", "a=b"],
        "MODE": [""],
    }


@pytest.mark.parametrize(
    ("given", "cause", "remedy"),
    [
        ("LEVEL", "has no value", "give NAME=VALUE[,VALUE...]"),
        ("PATH=/x", "the sandbox sets it itself", "offer another"),
        ("LD_PRELOAD=x;y", "kept from checks", "offer another"),
        ("9A=x", "it is no name", "use letters, digits and _"),
        ("A=1,2,3,4,5,6,7,8,9", "it has 9 values", "give 1 to 8"),
    ],
)
def test_what_cannot_be_offered_is_a_usage_error_with_a_remedy(given: str, cause: str, remedy: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        offered([given])
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == USAGE


def test_a_run_asks_for_variables_only_where_some_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "execute", lambda settings, body, **_: asked.append(body))
    monkeypatch.setenv("ENCHANTED_HOME", str(tmp_path / "home"))
    make_repository(tmp_path / "shop", {"a.py": ""})
    command = ["run", "t", "--repo", str(tmp_path / "shop")]
    assert cli.execute(command) == 0
    assert cli.execute([*command, "--variable", "LEVEL=debug,trace", "--variable", "MODE=fast"]) == 0
    assert cli.execute([*command, "--variable", "PATH=/x"]) == USAGE
    assert "variables" not in asked[0]
    assert [body["variables"] for body in asked[1:]] == [{"LEVEL": ["debug", "trace"], "MODE": ["fast"]}]
