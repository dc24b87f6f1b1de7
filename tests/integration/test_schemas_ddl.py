"""The tables' SQL for a cluster of ClickHouse servers. Its syntax is checked by chDB's parser; it ran on no cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from enchanted.cluster.store.testing import running_store
from enchanted.ingest.tables import connect
from enchanted.schemas.ddl import clustered, statements

CLUSTER = "swarm's"


async def test_every_statement_for_a_cluster_is_sql_and_makes_replicated_tables(tmp_path: Path) -> None:
    made = [clustered(sql, CLUSTER) for sql in statements()]
    async with running_store(tmp_path / "store") as url:
        client = await connect(url)
        for sql in made:
            formatted = await client.query("SELECT formatQuery({sql:String})", parameters={"sql": sql})
            assert "ON CLUSTER" in formatted.result_rows[0][0]
        await client.close()
    tables = [sql for sql in made if "CREATE TABLE" in sql]
    assert tables
    for sql in tables:
        assert len(re.findall(r"^ENGINE = Replicated(Replacing)?MergeTree\('/clickhouse/", sql, re.MULTILINE)) == 1
        assert "non_replicated" not in sql


def test_the_sql_can_be_printed_for_those_who_make_tables_themselves() -> None:
    command = [sys.executable, "-m", "enchanted.schemas.ddl"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    replicated = subprocess.run([*command, "--cluster", "c"], capture_output=True, text=True, check=True).stdout

    assert plain.count("CREATE ") + plain.count("ALTER ") == replicated.count("ON CLUSTER 'c'") == len(statements())
    assert "Replicated" not in plain
