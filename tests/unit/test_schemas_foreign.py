"""JSON that somebody else wrote: read if it can be shown again."""

from __future__ import annotations

import orjson
import pytest

from enchanted.schemas.foreign import MOST_LEVELS, foreign_json


@pytest.mark.parametrize(
    "text", ["null", "7", '"a"', "[]", "{}", '{"a": [1, {"b": null}]}', "[" + "0," * 10_000 + "0]"]
)
def test_json_is_read(text: str) -> None:
    assert orjson.dumps(foreign_json(text)) == orjson.dumps(orjson.loads(text))


@pytest.mark.parametrize("text", ["", "{", "\x00", '"\\ud800"', "nan", "[" * 2_000 + "]" * 2_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        foreign_json(text)


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_what_is_too_deep_to_be_shown_is_refused(start: str, end: str) -> None:
    fits = start * MOST_LEVELS + "1" + end * MOST_LEVELS
    assert orjson.dumps([foreign_json(fits)])
    with pytest.raises(ValueError, match="deeper"):
        foreign_json(start * (MOST_LEVELS + 1) + "1" + end * (MOST_LEVELS + 1))
