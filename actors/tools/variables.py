"""Variables that an operator offers to the checks: which names and values may be offered, and what was set.

A tool sets one of the offered values and nothing else, so that a model only chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import orjson

from enchanted.actors.errors import ActorError
from enchanted.actors.tools.sandbox_view import environment
from enchanted.schemas.canonical import canonical_json

SET_VARIABLE = "set_variable"
MOST_NAMES = 8
MOST_VALUES = 8
MOST_IN_ALL = 16
"""Names with their values; a Coder that tries every one asks its model as often."""
MOST_CHARS = 200
"""Of a value."""
Offers = Mapping[str, tuple[str, ...]]
"""Name -> the values it may take."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# What decides which code runs and how our own tools read what it says; a check's meaning must not hang on a choice.
_RESERVED = (
    "LD_", "DYLD_", "GLIBC_", "LC_", "XDG_", "BASH", "GIT_", "PYTHON", "PYTEST_", "RUFF_", "MYPY", "COVERAGE_", "PIP_",
    "UV_", "VIRTUAL_ENV", "CONDA_", "TOX_", "PERL5", "PERLLIB", "RUBY", "GEM_", "BUNDLE_", "JAVA_", "_JAVA_", "JDK_",
    "NPM_CONFIG_", "npm_config_", "CARGO_", "RUSTC", "RUSTFLAGS", "MAKEF",
)  # fmt: skip
_ALONE = frozenset((
    "ENV", "IFS", "SHELLOPTS", "PS4", "PWD", "OLDPWD", "SHELL", "CDPATH", "GLOBIGNORE",
    "GCONV_PATH", "LANGUAGE", "LOCPATH", "NLSPATH", "HOSTALIASES", "OPENSSL_CONF", "OPENSSL_MODULES",
    "NODE_OPTIONS", "NODE_PATH", "CLASSPATH", "GNUMAKEFLAGS", "GOFLAGS", "GOPATH", "GOROOT", "LUA_INIT", "LUA_PATH",
    "LUA_CPATH", "PHPRC", "PHP_INI_SCAN_DIR", "R_PROFILE", "R_ENVIRON", "R_LIBS",
))  # fmt: skip


class BadVariable(ActorError):
    """A variable that cannot be offered."""

    def __init__(self, name: str, why: str, remedy: str) -> None:
        super().__init__(f"the variable {name!r:.120} cannot be offered: {why}; {remedy}")


def require_offerable(offers: Mapping[str, Sequence[str]]) -> None:
    """Return where all of it may be offered.

    Raises:
        BadVariable: a name or a value is none that a check may get, or there are too many.
    """
    if len(offers) > MOST_NAMES:
        raise BadVariable(list(offers)[MOST_NAMES], f"it is one of {len(offers)}", f"offer at most {MOST_NAMES}")
    for name, values in offers.items():
        _require_name(name)
        if not 0 < len(values) <= MOST_VALUES:
            raise BadVariable(name, f"it has {len(values)} values", f"give 1 to {MOST_VALUES}")
        for value in values:
            if len(value) > MOST_CHARS or not (value.isprintable() or not value):
                raise BadVariable(name, f"it may not be {value!r:.80}", f"give up to {MOST_CHARS} printable characters")
    if (count := sum(map(len, offers.values()))) > MOST_IN_ALL:
        raise BadVariable(list(offers)[-1], f"that makes {count} values", f"offer {MOST_IN_ALL} in all at most")


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadVariable(name, "it is no name", "use letters, digits and _, a digit not first, at most 100")
    if name in environment():
        raise BadVariable(name, "the sandbox sets it itself", "offer another")
    if name.startswith(_RESERVED) or name in _ALONE:
        why = "names by which a shell, a loader or a tool finds its code or options are kept from checks"
        raise BadVariable(name, why, "offer another")


def changes_of(offers: Offers, past: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and values that can be set now: each once in a workspace, so that setting them comes to an end."""
    gone = set(past)
    return [(name, value) for name, values in offers.items() for value in values if (name, value) not in gone]


def to_json(value: str) -> str:
    """A value as its change holds it."""
    return canonical_json(value)


def from_json(text: str) -> str | None:
    """The value of a change; None where it is none that a check can be given."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def still_offered(offers: Offers, values: Mapping[str, str | None]) -> dict[str, str]:
    """What of these values is on offer."""
    return {name: value for name, value in values.items() if value is not None and value in offers.get(name, ())}
