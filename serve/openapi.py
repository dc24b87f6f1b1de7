"""``python -m enchanted.serve.openapi [--check]``: write the committed description, or say that it is stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from enchanted.serve.app import create_app
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store

COMMITTED = Path(__file__).with_name("openapi.json")


def description() -> str:
    """The OpenAPI document of the app as it is now."""
    nowhere = Dependencies(
        store=Store("http://127.0.0.1:1/default"),
        bus=BusLink("nats://127.0.0.1:1"),
        access=Access(token="none"),
        cache=Path("unused"),
    )
    return json.dumps(create_app(nowhere).openapi(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Exit status 1 when the committed document is not the current one."""
    current = description()
    if "--check" not in arguments:
        COMMITTED.write_text(current, encoding="utf-8")
        return 0
    if COMMITTED.is_file() and COMMITTED.read_text(encoding="utf-8") == current:
        return 0
    print("serve/openapi.json is stale; run `python -m enchanted.serve.openapi`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
