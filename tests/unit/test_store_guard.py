"""What the reader may do, judged from syntax trees and settings."""

from __future__ import annotations

import pytest

from enchanted.cluster.store.errors import AccessDenied
from enchanted.cluster.store.guard import LIMITS, check_tree, reader_settings

_CALL = "   Function {} (children 1)\n    ExpressionList (children 2)\n     Identifier file\n     Literal 'x'"
_SELECT = "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 2)\n"


def test_a_select_from_our_table_passes() -> None:
    check_tree(f"{_SELECT}   TableExpression (children 1)\n    TableIdentifier enchanted.events (alias e)")


def test_a_column_may_be_called_as_a_function_that_reads_files() -> None:
    check_tree(_SELECT + _CALL.format("equals"))


@pytest.mark.parametrize(
    "tree",
    [
        f"{_SELECT}   TableExpression (children 1)\n    Function url (children 1)",
        f"{_SELECT}   TableExpression (children 1)\n    TableIdentifier default./etc/passwd",
        f"{_SELECT}   TableExpression (children 1)\n    TableIdentifier system.processes",
        f"{_SELECT}   Identifier system.named_collections",
        f"{_SELECT}   Identifier default./etc/passwd",
        f"{_SELECT}   Function file (children 1)",
        f"{_SELECT}   Function aiGenerate (children 1)",
        f"{_SELECT}   Set",
        "InsertQuery   (children 1)",
        "Explain EXPLAIN (children 1)\n InsertQuery   (children 1)\n  Function file (children 1)",
        _SELECT + _CALL.format("arrayMap"),
        f"{_SELECT}   ColumnsApplyTransformer",
        f"{_SELECT}       Identifier events",
        "",
    ],
)
def test_anything_that_reaches_further_is_refused(tree: str) -> None:
    with pytest.raises(AccessDenied):
        check_tree(tree)


def test_a_reader_cannot_name_a_file_in_a_setting() -> None:
    with pytest.raises(AccessDenied, match="format_schema"):
        reader_settings({"format_schema": "/etc/passwd"})


def test_a_reader_may_ask_for_less_but_not_for_more() -> None:
    chosen = reader_settings({"max_execution_time": "5", "max_memory_usage": "0"})

    assert chosen["max_execution_time"] == "5"
    assert chosen["max_memory_usage"] == str(LIMITS["max_memory_usage"])
