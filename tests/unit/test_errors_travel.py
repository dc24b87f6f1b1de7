"""Every error of ours survives the way between two processes."""

from __future__ import annotations

import inspect
import pickle
from typing import Any, get_type_hints

import pytest

from enchanted.actors import agent, errors, lifecycle, orchestrator, team
from enchanted.actors.models import errors as model_errors
from enchanted.bus import errors as bus_errors
from enchanted.schemas import errors as schema_errors
from enchanted.schemas.errors import PortableError

MODULES = (agent, errors, lifecycle, model_errors, orchestrator, team, bus_errors, schema_errors)
CLASSES = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PortableError)
    },
    key=lambda kind: kind.__qualname__,
)


def example(kind: type[PortableError]) -> PortableError:
    """An error with some value for each argument."""
    if kind.__init__ is Exception.__init__ or "__init__" not in {n for c in kind.__mro__[:-3] for n in vars(c)}:
        return kind("cause; remedy")
    hints = get_type_hints(kind.__init__)
    values: dict[Any, Any] = {int: 3, float: 2.5, bool: True}
    given: dict[str, Any] = {"differences": {"max_age": (1, 2)}, "error": {"code": 503, "err_code": 10077}}
    required = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.default is inspect.Parameter.empty
    ]
    return kind(**{name: given.get(name, values.get(hints.get(name), "text")) for name in required})


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__qualname__)
def test_an_error_arrives_as_it_was_sent(kind: type[PortableError]) -> None:
    sent = example(kind)
    arrived = pickle.loads(pickle.dumps(sent))
    assert type(arrived) is kind
    assert (str(arrived), vars(arrived)) == (str(sent), vars(sent))
