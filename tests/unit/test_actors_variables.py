"""Which variables an operator may offer to the checks, and what a fork keeps of those that were set."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from enchanted.actors.tools.sandbox_view import environment
from enchanted.actors.tools.variables import (
    MOST_CHARS,
    BadVariable,
    changes_of,
    from_json,
    require_offerable,
    still_offered,
    to_json,
)


def test_ordinary_names_and_values_may_be_offered() -> None:
    require_offerable({"LOG_LEVEL": ("debug", "", "a b=c,d"), "_x9": ("ü",), "NODE_ENV": ("test",), "MAKE": ("x",)})
    require_offerable({})


@pytest.mark.parametrize(
    "name",
    [
        *environment(), "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "RUFF_CONFIG", "GIT_DIR", "BASH_ENV", "ENV", "IFS",
        "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "NODE_OPTIONS", "PERL5OPT", "PERL5LIB", "RUBYOPT", "RUBYLIB",
        "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "MAKEFLAGS", "MAKEFILES", "CDPATH", "GCONV_PATH",
        "GLIBC_TUNABLES", "VIRTUAL_ENV", "UV_INDEX_URL", "PIP_INDEX_URL", "XDG_CONFIG_HOME", "LC_ALL", "LOCPATH",
        "NLSPATH", "BASH_FUNC_x", "BASHOPTS", "MYPYPATH", "COVERAGE_PROCESS_START", "npm_config_prefix", "RUSTFLAGS",
    ],
)  # fmt: skip
def test_what_decides_which_code_runs_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadVariable, match=f"{name}.*offer another"):
        require_offerable({name: ("x",)})


@pytest.mark.parametrize("name", ["", "9A", "A-B", "A=B", "A B", "Ä", "A\n", "A\0", "A" * 101])
def test_what_is_no_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(BadVariable, match="use letters, digits and _"):
        require_offerable({name: ("x",)})


@pytest.mark.parametrize(
    "offers",
    [
        {"A": ()},
        {"A": tuple("123456789")},
        {"A": ("x" * (MOST_CHARS + 1),)},
        {"A": ("a\nb",)},
        {"A": ("a\0",)},
        {"A": ("\ud800",)},
        {f"A{number}": ("x",) for number in range(9)},
        {f"A{number}": tuple("123456") for number in range(3)},
    ],
)
def test_too_many_or_unprintable_values_are_refused(offers: Mapping[str, tuple[str, ...]]) -> None:
    with pytest.raises(BadVariable, match="cannot be offered"):
        require_offerable(offers)


def test_each_value_is_offered_once_so_that_choosing_comes_to_an_end() -> None:
    offers, past = {"A": ("1", "2"), "B": ("1",)}, list[tuple[str, str]]()
    while left := changes_of(offers, past):
        past.append(left[0])
    assert past == [("A", "1"), ("A", "2"), ("B", "1")]


def test_a_fork_keeps_what_it_offers_itself_and_nothing_that_is_no_text() -> None:
    set_there = {"A": to_json("1"), "B": to_json("2"), "C": "5", "D": "{", "E": "[" * 2_000}
    offers = {"A": ("1", "3"), "B": ("3",), "C": ("5",), "D": ("{",), "E": ("x",)}
    assert still_offered(offers, {name: from_json(text) for name, text in set_there.items()}) == {"A": "1"}
