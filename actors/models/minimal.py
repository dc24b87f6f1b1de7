"""A model without weights: the smallest answer that fits the schema, enumerations picked by the seed.

For tests and for trying a set-up before any weights are there (``minimal`` as the model's URL). What it
decides is arbitrary; everything around it is real.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import orjson

from enchanted.actors.models.errors import ModelRefused
from enchanted.actors.models.model import ModelReply, ModelRequest

WORDS = "this is the smallest answer that fits the form "


class MinimalModel:
    """Answers any request with a schema at once; ``preferred`` names choices it takes where they are offered."""

    name = "minimal"

    def __init__(self, preferred: tuple[str, ...] = ()) -> None:
        self._preferred = preferred

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The smallest document of the schema.

        Raises:
            ModelRefused: the request has no schema, or one with a type this model does not know.
        """
        if request.schema is None:
            raise ModelRefused(self.name, "it only fills in forms", "give the request a schema")
        text = orjson.dumps(self._value(request.schema, random.Random(request.seed))).decode()
        return ModelReply(
            text=text,
            finish_reason="stop",
            input_tokens=sum(len(message.content.split()) for message in request.messages),
            output_tokens=len(text.split()),
            duration_ms=0.0,
            time_to_first_token_ms=0.0,
            model=self.name,
        )

    def _value(self, schema: Mapping[str, Any], chance: random.Random) -> Any:
        if "enum" in schema:
            return self._pick(schema["enum"], chance)
        if "anyOf" in schema:
            return self._value(self._alternative(schema["anyOf"], chance), chance)
        match schema.get("type"):
            case "object":
                known: Mapping[str, Any] = schema.get("properties", {})
                return {name: self._value(known[name], chance) for name in schema.get("required", known)}
            case "array":
                return [self._value(schema["items"], chance) for _ in range(schema.get("minItems", 0))]
            case "string":
                length = schema.get("minLength", 0)
                return (WORDS * (length // len(WORDS) + 1))[:length]
            case "integer" | "number":
                return schema.get("minimum", 0)
            case "boolean":
                return False
        raise ModelRefused(self.name, f"it does not know the schema {dict(schema)}", "use type or enum")

    def _alternative(self, schemas: list[Mapping[str, Any]], chance: random.Random) -> Mapping[str, Any]:
        by_choice = {schema["properties"]["choice"]["enum"][0]: schema for schema in schemas}
        return by_choice[self._pick(list(by_choice), chance)]

    def _pick(self, options: list[Any], chance: random.Random) -> Any:
        for wish in self._preferred:
            for option in options:
                if str(option).startswith(wish):
                    return option
        return chance.choice(options)
