"""The tables as numbered SQL files, in the order they are applied."""

from __future__ import annotations

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
