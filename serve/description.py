"""What OpenAPI says of every route alike: who may ask, how errors look, how often one may ask."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from enchanted.serve.documents.answer import Problem
from enchanted.serve.guard.auth import OPEN_PATHS

_PROBLEM = "application/problem+json"
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No bearer token, or a wrong one"},
    408: {"model": Problem, "description": "The body of the request did not come in time"},
    413: {"model": Problem, "description": "The body of the request is too large"},
    421: {"model": Problem, "description": "The Host header names somebody else"},
    429: {
        "model": Problem,
        "description": "This address, or everybody together, asks too much",
        "headers": _RETRY_AFTER,
    },
    500: {
        "model": Problem,
        "description": "What is stored was damaged: `event-corrupted`; no request leads to another",
    },
    503: {"model": Problem, "description": "A service the API leans on is away", "headers": _RETRY_AFTER},
    "4XX": {"model": Problem, "description": "RFC 9457 problem; `code` names the condition, `detail` the remedy"},
}
_NAMES = {
    "401": "Unauthorized",
    "408": "Overdue",
    "413": "TooLarge",
    "421": "WrongHost",
    "429": "TooMany",
    "500": "Damaged",
    "503": "Away",
    "4XX": "Refused",
}


def describe(app: FastAPI) -> None:
    """Give the app's description what FastAPI cannot derive, and say once what every route shares."""
    derived = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = derived()
            bearer = {"type": "http", "scheme": "bearer", "description": "`enchanted status --json` names its file"}
            document["components"] |= {"securitySchemes": {"bearer": bearer}, "responses": {}}
            document["security"] = [{"bearer": []}]
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    if path in OPEN_PATHS:
                        operation["security"] = []
                    _share(operation["responses"], document["components"]["responses"])
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


def _share(answers: dict[str, Any], shared: dict[str, Any]) -> None:
    """Put a reference in the place of each answer that is described for all routes."""
    common = {str(status): one["description"] for status, one in ERRORS.items()}
    for status, answer in answers.items():
        if answer["description"] == common.get(status):
            # FastAPI takes every model for plain JSON.
            shared[_NAMES[status]] = answer | {"content": {_PROBLEM: answer["content"]["application/json"]}}
            answers[status] = {"$ref": f"#/components/responses/{_NAMES[status]}"}
