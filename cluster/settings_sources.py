"""Where settings come from: flags > environment ``ENCHANTED_*`` > enchanted.toml or [tool.enchanted] > defaults."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from enchanted.actors.models.errors import LONGEST_SHOWN, without_secrets
from enchanted.cluster.errors import SettingsInvalid
from enchanted.cluster.settings import ModelSettings, Settings

PREFIX = "ENCHANTED_"
FILE = "enchanted.toml"
STANDARD_VARIABLES = {"RAY_ADDRESS": "ray_address"}
"""Variables of other tools that we honour under their own name."""
NO_SETTINGS = frozenset(f"{PREFIX}{name}" for name in ("CHROMIUM", "PICTURES", "BENCH_EVENTS", "BENCH_SECONDS"))
"""What tests and benchmarks read."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Settings and where each value came from."""

    settings: Settings
    origins: Mapping[str, str] = field(default_factory=dict)
    """Dotted name to origin; a name not in it has its default."""

    def items(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted name, value, origin) of every setting, in the order they are declared."""
        for name, value in _leaves(self.settings.model_dump(mode="json")):
            yield name, value, _origin(name, self.origins)


def load(
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Loaded:
    """Settings from every source.

    ``overrides`` are flags by dotted name (None = not given); ``folder`` holds enchanted.toml or pyproject.toml.

    Raises:
        SettingsInvalid: a name is unknown or a value cannot be used; says where it was set.
    """
    environment = os.environ if environment is None else environment
    folder = Path.cwd() if folder is None else folder
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources = (*_from_file(folder), *_from_environment(environment), *_from_flags(overrides or {}))
    for path, value, origin in sources:
        _known(path, origin)
        _put(merged, origins, path, value, origin)
    try:
        return Loaded(settings=Settings.model_validate(merged), origins=origins)
    except ValidationError as error:
        raise _invalid(error, origins) from error


Assignment = tuple[tuple[str, ...], Any, str]


def _from_file(folder: Path) -> Iterator[Assignment]:
    for name in (FILE, "pyproject.toml"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            table = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsInvalid(f"{path} is not TOML: {error}", "correct the file") from error
        if name != FILE:
            tools = table.get("tool", {})
            ours = tools.get("enchanted") if isinstance(tools, dict) else None
            if ours is None:
                continue
            if not isinstance(ours, dict):
                raise SettingsInvalid(f"tool.enchanted in {path} is no table", "write [tool.enchanted]")
            table = ours
        for dotted, value in _leaves(table):
            yield tuple(dotted.split(".")), value, str(path)
        return


def _from_environment(environment: Mapping[str, str]) -> Iterator[Assignment]:
    for variable, setting in STANDARD_VARIABLES.items():
        # http://… is the Jobs API, which `ray job submit` takes by the same name; a driver cannot connect to it.
        if (value := environment.get(variable)) and not value.startswith("http"):
            yield (setting,), value, f"environment {variable}"
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and environment[variable] != "" and variable not in NO_SETTINGS:
            path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
            value, origin = _from_text(path, environment[variable]), f"environment {variable}"
            if not isinstance(value, dict) or _annotation(path) is dict:
                yield path, value, origin
            else:  # what it does not name is as another source says
                for dotted, leaf in _leaves(value, f"{'.'.join(path)}."):
                    yield tuple(dotted.split(".")), leaf, origin


def _from_flags(overrides: Mapping[str, Any]) -> Iterator[Assignment]:
    for name, value in overrides.items():
        if value is not None:
            yield tuple(name.split(".")), value, f"flag --{name.replace('_', '-').replace('.', '-')}"


def _from_text(path: tuple[str, ...], text: str) -> Any:
    """A variable's text, read as JSON where the setting is a table."""
    if text.startswith("{") and isinstance(_annotation(path), type):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            return text
    return text


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and _annotation(tuple(name.split("."))) is not dict:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _put(merged: dict[str, Any], origins: dict[str, str], path: tuple[str, ...], value: Any, origin: str) -> None:
    table = merged
    for key in path[:-1]:
        inner = table.get(key)
        # `model = "vllm:…"` in a file and ENCHANTED_MODEL__NUM_GPUS beside it mean one table.
        table[key] = dict(inner) if isinstance(inner, Mapping) else {} if inner is None else {"url": inner}
        table = table[key]
    present = table.get(path[-1])
    if isinstance(present, dict) and isinstance(value, str) and _is_model(path):
        present["url"] = value
    else:
        table[path[-1]] = value
    origins[".".join(path)] = origin


def _is_model(path: tuple[str, ...]) -> bool:
    return _annotation(path) is ModelSettings


def _annotation(path: tuple[str, ...]) -> Any:
    """The model or type a dotted name stands for; None where there is no such setting."""
    current: Any = Settings
    for key in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or key not in current.model_fields:
            return None
        current = _plain(current.model_fields[key].annotation)
    return current


def _plain(annotation: Any) -> Any:
    """``X | None`` as X and ``dict[…]`` as dict."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    origin = typing.get_origin(annotation)
    return dict if origin is dict else annotation


def _known(path: tuple[str, ...], origin: str) -> None:
    if any(_annotation(path[:length]) is dict for length in range(1, len(path))):
        return
    if _annotation(path) is not None:
        return
    names = [name for name, _ in _every_name(Settings)]
    wrong = ".".join(path)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    shown = f"{PREFIX}{'__'.join(path).upper()}" if origin.startswith("environment") else wrong
    nearest = f"{PREFIX}{near[0].replace('.', '__').upper()}" if near and origin.startswith("environment") else near[:1]
    hint = nearest if isinstance(nearest, str) else "".join(nearest)
    remedy = f"did you mean {hint}?" if hint else "`enchanted config show` lists every setting"
    raise SettingsInvalid(f"there is no setting {shown} ({origin})", remedy)


def _every_name(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, info in section.model_fields.items():
        inner = _plain(info.annotation)
        yield f"{prefix}{key}", inner
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _every_name(inner, f"{prefix}{key}.")


def _origin(name: str, origins: Mapping[str, str]) -> str:
    while name:
        if name in origins:
            return origins[name]
        name = name.rpartition(".")[0]
    return "default"


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> SettingsInvalid:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    origin = _origin(name, origins)
    # Passwords stay out of logs.
    shown = without_secrets(repr(first["input"]))[:LONGEST_SHOWN]
    value = "" if isinstance(first["input"], dict) else f" = {shown}"
    own = first["type"] == "value_error"
    why = first["msg"].removeprefix("Value error, ") if own else first["msg"].lower()
    return SettingsInvalid(f"{name}{value} ({origin}): {without_secrets(why)}", f"correct {name} in {origin}")
