"""Attribute values as the text the OpenTelemetry collector makes of them (``pcommon.Value.AsString``). Pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from decimal import Decimal

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

# Go's encoder writes these as escapes, so that JSON may stand within HTML.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


class _NoJson(Exception):
    """A value JSON cannot express."""


def attribute_map(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """Name to text; of a name that comes twice the last."""
    return {attribute.key: attribute_text(attribute.value) for attribute in attributes}


def attribute_text(value: AnyValue) -> str:
    """One value; lists and maps as JSON with sorted keys, bytes in base64, empty for none."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "double_value" if not math.isfinite(value.double_value):
            return f"json: unsupported value: {_not_finite(value.double_value)}"
        case None | "string_value_strindex":
            return ""
    try:
        return _json(value)
    except _NoJson:
        return ""


def _json(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return _number(value.double_value)
        case "array_value":
            return f"[{','.join(_json(one) for one in value.array_value.values)}]"
        case "kvlist_value":
            members = {one.key: one.value for one in value.kvlist_value.values}
            return f"{{{','.join(f'{_quoted(key)}:{_json(members[key])}' for key in sorted(members))}}}"
        case "string_value" | "bytes_value":
            return _quoted(attribute_text(value))
    return "null"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPED)


def _number(value: float) -> str:
    """As ECMAScript writes it: the shortest digits, an exponent only below 1e-6 and from 1e21 on."""
    if not math.isfinite(value):
        raise _NoJson
    shortest = repr(value)
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        return shortest.replace("e-0", "e-")
    return format(Decimal(shortest), "f").removesuffix(".0")


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
