"""What the reader may run, judged from the syntax tree that ClickHouse's own parser makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enchanted.cluster.store.credentials import DATABASE
from enchanted.cluster.store.engine import Handle
from enchanted.cluster.store.errors import AccessDenied, EngineRefused, SyntaxRefused
from enchanted.schemas.errors import TreeNotUnderstood
from enchanted.schemas.sql_text import first_word
from enchanted.schemas.sql_tree import parse_tree, reach

BEGINNINGS = frozenset({"SELECT", "WITH", "EXPLAIN", "DESCRIBE", "DESC", "SHOW", "EXISTS", "("})
FORMATS = re.compile(
    r"(Native|Null|Values|Vertical|Markdown|XML|RowBinary\w*|JSON\w*|CSV\w*|TSV\w*|TabSeparated\w*|Pretty\w*"
    r"|Arrow|ArrowStream|Parquet|MsgPack)\Z"
)
"""Formats that need no file beside the result."""
SYSTEM_TABLES = frozenset(
    {
        "build_options", "columns", "contributors", "data_skipping_indices", "data_type_families", "databases",
        "formats", "functions", "merges", "metrics", "mutations", "numbers", "one", "parts", "settings", "tables",
        "table_engines", "table_functions", "time_zones",
    }
)  # fmt: skip
SETTINGS = frozenset(
    {
        "cast_string_to_dynamic_use_inference", "date_time_input_format", "date_time_output_format",
        "do_not_merge_across_partitions_select_final", "enable_http_compression", "extremes",
        "format_csv_delimiter", "join_use_nulls", "limit",
        "max_block_size", "max_execution_time", "max_memory_usage", "max_result_bytes", "max_result_rows",
        "max_rows_to_read", "max_threads", "offset", "optimize_read_in_order",
        "output_format_arrow_string_as_string", "output_format_arrow_unsupported_types_as_binary",
        "output_format_json_named_tuples_as_objects", "output_format_json_quote_64bit_integers",
        "output_format_native_encode_types_in_binary_format", "output_format_parquet_string_as_string",
        "readonly", "result_overflow_mode", "session_timezone", "use_query_cache",
        "use_skip_indexes_if_final_exact_mode",
    }
)  # fmt: skip
"""What a reader may set: how a result is written and smaller limits, nothing that names a file."""
LIMITS: Mapping[str, int] = {"max_execution_time": 60, "max_memory_usage": 2_000_000_000, "max_result_bytes": 10**9}
"""Seconds, bytes, bytes: a reader may ask for less."""

_ROOTS = frozenset(
    {"SelectWithUnionQuery", "SelectIntersectExceptQuery", "ShowTables", "ShowColumns", "ShowCreateTableQuery",
     "DescribeQuery", "ExistsTableQuery", "Explain"}
)  # fmt: skip


def reader_settings(given: Mapping[str, str]) -> dict[str, str]:
    """The reader's settings with our limits put in; `check_reader` makes the handle read-only.

    Raises:
        AccessDenied: a setting is not one a reader may choose.
    """
    refused = sorted(name for name in given if name not in SETTINGS)
    if refused:
        raise AccessDenied(f"setting {refused[0]}")
    chosen = {name: value for name, value in given.items() if name != "readonly"}
    for name, limit in LIMITS.items():
        asked = chosen.get(name, "")
        chosen[name] = asked if asked.isdigit() and 0 < int(asked) < limit else str(limit)
    # Without it "DESC = 1 FROM t" is a SELECT, which EXPLAIN AST would read otherwise.
    return {**chosen, "implicit_select": "0"}


def check_database(name: str) -> None:
    """A reader names tables of ours without their database.

    Raises:
        AccessDenied: it asked for unqualified names to mean another database's.
    """
    if name != DATABASE:
        raise AccessDenied(f"the database {name}")


def check_reader(handle: Handle, sql: str, output: str, params: Mapping[str, str]) -> None:
    """Let one statement pass that only reads our own tables, and let the handle only read from now on.

    Raises:
        AccessDenied: it is something else.
        EngineRefused: it does not parse.
    """
    if first_word(sql.encode()) not in BEGINNINGS and not sql.lstrip().startswith("("):
        raise AccessDenied("a statement that does not begin with SELECT, WITH, EXPLAIN, DESCRIBE, SHOW or EXISTS")
    kind = handle.classify(sql)
    if kind.statements == 1 and not kind.reads_only:
        raise AccessDenied("a statement that writes, a file as its target, or a change of settings")
    if kind.statements > 1:
        raise SyntaxRefused("Syntax error: Multi-statements are not allowed")
    if not FORMATS.match(output):
        raise AccessDenied(f"FORMAT {output}")
    try:
        tree, _ = handle.query(f"EXPLAIN AST {sql}", "TSVRaw", params)
    except EngineRefused as error:
        raise EngineRefused(error.message.replace("EXPLAIN AST ", "")) from error
    check_tree(tree.decode())
    handle.make_read_only()


def check_tree(tree: str) -> None:
    """Judge the printed syntax tree.

    Raises:
        AccessDenied: it reads from a table function or a table that is not ours, or sets a setting.
    """
    try:
        root = parse_tree(tree)
    except TreeNotUnderstood as error:
        raise AccessDenied(str(error)) from error
    if root.kind not in _ROOTS:
        raise AccessDenied(f"a statement of kind {root.kind}")
    if found := reach(root):
        raise AccessDenied(found)
    for node in root.walk():
        if node.kind == "Set":
            raise AccessDenied("SETTINGS in the statement")
        if node.kind in ("TableIdentifier", "Identifier"):
            _check_name(node.name, table=node.kind == "TableIdentifier")


def _check_name(name: str, *, table: bool) -> None:
    database, dot, rest = name.partition(".")
    if not dot:
        return
    if database.lower() == "system" and rest.split(".")[0] not in SYSTEM_TABLES:
        raise AccessDenied(f"the table {name}")
    known = database == DATABASE or database.lower() in ("system", "information_schema")
    if (table and not known) or database == "default":
        raise AccessDenied(f"the table {name}")
