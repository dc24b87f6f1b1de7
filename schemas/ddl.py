"""The tables as numbered SQL files, in the order they are applied."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources

from enchanted.schemas.canonical import sha256_hex

MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number UInt32,
    name String,
    sha256 String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY number
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""
"""The table that remembers which files were applied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One file of ``schemas/sql``: a single statement that is safe to run again."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the text, to notice a file that was changed after it was applied."""
        return sha256_hex(self.sql)


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration, lowest number first."""
    folder = resources.files("enchanted.schemas").joinpath("sql")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return tuple(
        Migration(
            number=int(name[:3]),
            name=name[4:].removesuffix(".sql"),
            sql=folder.joinpath(name).read_text(encoding="utf-8"),
        )
        for name in files
    )


def statements() -> list[str]:
    """Everything that makes the tables, in order."""
    return [MIGRATIONS, *(migration.sql for migration in migrations())]


def clustered(sql: str, cluster: str) -> str:
    """The same statement for a ClickHouse cluster with Keeper: on every node, each table replicated.

    ``{shard}`` and ``{replica}`` are the server's own macros. Not run against a cluster by us; the syntax is checked.
    """
    name = cluster.replace("\\", "\\\\").replace("'", "\\'")
    begins = re.compile(r"^(CREATE (?:TABLE|VIEW) IF NOT EXISTS \w+|ALTER TABLE \w+)", re.MULTILINE)
    sql = begins.sub(rf"\1 ON CLUSTER '{name}'", sql)
    place = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"
    sql = re.sub(r"^ENGINE = (\w*MergeTree)$", rf"ENGINE = Replicated\1({place})", sql, flags=re.MULTILINE)
    return sql.replace("non_replicated_deduplication_window", "replicated_deduplication_window")


def main() -> int:
    """``python -m enchanted.schemas.ddl [--cluster NAME]``: print everything that makes the tables."""
    parser = argparse.ArgumentParser(prog="python -m enchanted.schemas.ddl", description="print the tables' SQL")
    parser.add_argument("--cluster", default="", help="with Replicated engines, ON CLUSTER of this name")
    options = parser.parse_args()
    made = [clustered(sql, options.cluster) if options.cluster else sql for sql in statements()]
    print(";\n\n".join(sql.strip() for sql in made) + ";")
    return 0


if __name__ == "__main__":
    sys.exit(main())
