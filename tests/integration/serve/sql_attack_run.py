"""Judge statements as `POST /sql` does and run what passes, without any right taken away: a process of its own, since
chDB must not be in one that forks.

``python sql_attack_run.py FOLDER < statements.json``: prints how many were refused by their signs, by ClickHouse's
parser and by the tree, and each that passed with the answer it got.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from enchanted.cluster.store.engine import Engine, Handle
from enchanted.cluster.store.errors import EngineRefused
from enchanted.schemas.ddl import migrations
from enchanted.serve.errors import SqlRefused
from enchanted.serve.guard.sql_guard import check_tree, read


def judge(handle: Handle, sql: str) -> tuple[str, str]:
    """What stopped a statement; empty, and its answer, where nothing did."""
    try:
        statement = read(sql)
    except SqlRefused as error:
        return "signs", str(error)
    try:
        tree = handle.query(f"EXPLAIN AST {statement.text}", "TabSeparated", {})[0].decode("utf-8", "replace")
    except EngineRefused as error:
        return "parser", str(error)
    try:
        check_tree(tree, statement)
    except SqlRefused as error:
        return "tree", str(error)
    try:
        return "", handle.query(statement.text, "TabSeparated", {})[0].decode("utf-8", "replace")
    except EngineRefused as error:
        return "", str(error)


def main() -> None:
    """Judge all of them."""
    counts: dict[str, int] = {}
    passed: list[Any] = []
    with Engine(Path(sys.argv[1])) as engine:
        handle = engine.handle()
        handle.configure({"max_execution_time": "3"}, "enchanted")
        for migration in migrations():
            handle.query(migration.sql, "Null", {})
        for sql in json.load(sys.stdin):
            by, answer = judge(handle, sql)
            counts[by] = counts.get(by, 0) + 1
            if not by:
                passed.append([sql, answer[:10_000]])
        tables = handle.query("SHOW TABLES", "TabSeparated", {})[0].decode().split()
        handle.close()
    print(json.dumps({"counts": counts, "passed": passed, "tables": tables}))


if __name__ == "__main__":
    main()
