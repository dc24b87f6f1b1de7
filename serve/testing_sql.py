"""For tests: attacks on `POST /sql` from a grammar of targets, places and disguises; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ALONE = "127.77.7.7"
"""Of this machine, and nobody else's: whoever looks for a server that is gone knocks at ports of 127.0.0.1."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """What an attack must not reach."""

    folder: Path
    """Holds ``secret.txt`` and nothing else."""
    port: int
    """Of a socket of ``ALONE`` that nobody connects to."""

    @property
    def secret(self) -> str:
        """A file with a text that must come back in no answer."""
        return str(self.folder / "secret.txt")

    @property
    def out(self) -> str:
        """A file that must not come to be."""
        return str(self.folder / "out.txt")

    @property
    def host(self) -> str:
        """The socket as host and port."""
        return f"{ALONE}:{self.port}"


_BY_URL = (
    "url", "s3", "gcs", "oss", "cosn", "hdfs", "hudi", "deltaLake", "deltaLakeS3", "iceberg", "icebergS3", "paimon",
    "paimonS3", "prometheusQuery", "ytsaurus", "jdbc", "urlCluster", "s3Cluster", "azureBlobStorage", "arrowstream",
)  # fmt: skip
_BY_HOST = ("remote", "remoteSecure", "mysql", "postgresql", "mongodb", "redis", "cluster", "clusterAllReplicas")
_BY_PATH = (
    "file", "fileCluster", "filesystem", "sqlite", "icebergLocal", "deltaLakeLocal", "paimonLocal", "executable",
    "python", "merge", "loop", "input", "dictionary", "view", "viewExplain", "viewIfPermitted", "eval", "odbc",
    "mergeTreeIndex", "mergeTreeProjection", "numbers", "zeros", "values", "null", "generateRandom", "fuzzJSON",
    "format", "primes",
)  # fmt: skip
_FILES = (
    '"{secret}"', "`{secret}`", "'{secret}'", 'default."{secret}"', "`default`.`{secret}`", "default.`{secret}`",
    '_local."{secret}"', "“{secret}”", "‘{secret}’", "$a${secret}$a$",
)  # fmt: skip
_SYSTEM = (
    "tables", "processes", "named_collections", "users", "grants", "query_log", "text_log", "settings", "disks",
    "zookeeper", "clusters", "dictionaries", "functions", "detached_parts", "certificates", "stack_trace",
    "server_settings", "one",
)  # fmt: skip
_FROM = (
    "SELECT * FROM {t}", "SELECT * FROM (SELECT * FROM {t})", "WITH x AS (SELECT * FROM {t}) SELECT * FROM x",
    "SELECT 1 IN {t}", "SELECT 1 NOT IN {t}", "SELECT 1 GLOBAL IN {t}", "SELECT nullIn(1, {t})", "SELECT in(1, {t})",
    "SELECT 1 IN (SELECT * FROM {t})", "SELECT e.run FROM events AS e JOIN {t} AS o ON 1 = 1",
    "SELECT run FROM events LEFT JOIN {t} USING (run)", "SELECT run FROM events, {t}",
    "SELECT run FROM events UNION ALL SELECT * FROM {t}", "SELECT run FROM events EXCEPT SELECT * FROM {t}",
    "SELECT (SELECT count() FROM {t})", "SELECT run FROM events WHERE EXISTS (SELECT 1 FROM {t})",
    "SELECT z FROM events ARRAY JOIN (SELECT groupArray(1) FROM {t}) AS z", "FROM {t} SELECT *",
    "SELECT * FROM {t} AS events", "SELECT * FROM {t} FINAL", "SELECT * FROM {t} SAMPLE 1", "(SELECT * FROM {t})",
    "((SELECT 1) UNION ALL (SELECT * FROM {t}))",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM {t}) SELECT * FROM r",
    "SELECT run FROM events WHERE run = (SELECT * FROM {t} LIMIT 1)",
    "SELECT run FROM events ORDER BY (SELECT 1 FROM {t})", "WITH (SELECT * FROM {t}) AS s SELECT s",
    "SELECT 1 FROM events WHERE 1 = ANY (SELECT * FROM {t})", "EXPLAIN SELECT * FROM {t}",
    "EXPLAIN AST SELECT * FROM {t}", "EXPLAIN PIPELINE SELECT * FROM {t}", "DESCRIBE TABLE {t}",
    "SELECT * FROM (EXPLAIN SELECT * FROM {t})", "INSERT INTO FUNCTION {t} SELECT 1",
    "INSERT INTO TABLE FUNCTION {t} VALUES (1)", "CREATE TABLE mine AS {t}",
    "CREATE TABLE mine ENGINE = Memory AS SELECT * FROM {t}", "CREATE VIEW mine AS SELECT * FROM {t}",
    "SHOW CREATE TABLE {t}", "EXISTS TABLE {t}", "SELECT * FROM view(SELECT * FROM {t})",
    "SELECT 1 PARALLEL WITH SELECT * FROM {t}",
    "WITH x AS (SELECT * FROM x), y AS (SELECT * FROM {t}) SELECT * FROM y",
    "SELECT * FROM x, (WITH x AS (SELECT 1) SELECT * FROM {t})",
    'WITH "`{t}`" AS (SELECT 1 AS a) SELECT * FROM {t}', "WITH `\"{t}\"` AS (SELECT 1 AS a) SELECT * FROM {t}",
    "WITH RECURSIVE {t} AS (SELECT * FROM {t}) SELECT * FROM {t}",
    "WITH RECURSIVE `{t}` AS (SELECT * FROM {t}) SELECT * FROM {t}",
    "WITH RECURSIVE {t} AS (SELECT * FROM {t} UNION ALL SELECT 'x') SELECT * FROM {t}",
    "WITH RECURSIVE `{t}` AS (SELECT * FROM {t} UNION ALL SELECT 'x') SELECT * FROM {t}",
    "WITH RECURSIVE {t} AS (SELECT * FROM (SELECT 'x' UNION ALL SELECT * FROM {t})) SELECT * FROM {t}",
    "WITH {t} AS (SELECT s), (SELECT toString(tuple(*)) FROM {t}) AS s SELECT * FROM {t}",
    "WITH {t} AS (SELECT f(1)), q -> (SELECT toString(tuple(*)) FROM {t}) AS f SELECT * FROM {t}",
    "WITH {t} AS (SELECT s) SELECT * FROM (WITH (SELECT toString(tuple(*)) FROM {t}) AS s SELECT * FROM {t})",
    "WITH {t} AS (SELECT 'x') SELECT * FROM {t} UNION ALL WITH x AS (SELECT 'x') SELECT * FROM {t}",
    "WITH {t} AS events SELECT 1 IN events",
)  # fmt: skip
_SCALARS = (
    "file('{secret}')", "FILE('{secret}')", "`file`('{secret}')", '"file"(\'{secret}\')', "file('{secret}', '')",
    "arrayMap(file, ['{secret}'])", "arrayMap(`file`, ['{secret}'])", "arrayMap(x -> file(x), ['{secret}'])",
    "arrayFilter(file, ['{secret}'])", "arrayFold((a, x) -> file(x), ['{secret}'], '')",
    "mapApply((k, v) -> (k, file(v)), map(1, '{secret}'))", "catboostEvaluate('{secret}', 1)",
    "naiveBayesClassifier('{secret}', 'x')", "dictGet('d', 'a', 1)", "dictGet(default.d, 'a', 1)", "dictHas('d', 1)",
    "dictIsIn('d', 1, 2)", "joinGet('default.j', 'a', 1)", "joinGetOrNull(default.j, 'a', 1)", "regionToName(1)",
    "hasColumnInTable('{host}', 'default', 't', 'c')", "hasColumnInTable('system', 'tables', 'name')",
    "reverseDNSQuery('127.0.0.1')", "aiGenerate('http://{host}/', 'x')", "AIGenerate('{host}', 'x')",
    "aiEmbed('c', 'http://{host}/')", "getServerSetting('path')", "getMacro('x')", "filesystemAvailable()",
    "filesystemCapacity('default')", "logTrace('{secret}')", "addressToLine(1)", "generateSerialID('x')",
    "showCertificate()", "evalMLMethod('{secret}', 1)", "url('http://{host}/')", "s3('http://{host}/')",
    "remote('{host}')", "executable('id')", "python('import os')", "eval('1')", "sleep(3)", "sleepEachRow(3)",
    "__getScalar('x')", "zookeeperSessionUptime()", "input('a String')", "getClientHTTPHeader('authorization')",
)  # fmt: skip
_WHERE = (
    "SELECT {s}", "SELECT 1 WHERE {s} != ''", "SELECT run FROM events PREWHERE {s} != ''",
    "SELECT run FROM events ORDER BY {s}", "SELECT 1 LIMIT length({s})", "SELECT count() FROM events GROUP BY {s}",
    "SELECT count() FROM events HAVING {s} != ''", "WITH {s} AS z SELECT z", "WITH q -> {s} AS g SELECT g(1)",
    "SELECT arrayMap(q -> {s}, [1])", "SELECT if(1, {s}, '')", "SELECT CASE WHEN 1 THEN {s} END",
    "SELECT 1 AS a, 'b' AS b ORDER BY a WITH FILL FROM 1 TO 3 INTERPOLATE (b AS {s})",
    "SELECT 1 AS a ORDER BY a WITH FILL FROM length({s}) TO 3", "SELECT sum(1) OVER (PARTITION BY {s}) FROM events",
    "SELECT quantile({s})(1)", "SELECT * REPLACE ({s} AS run) FROM events", "SELECT ({s}, 1).1", "SELECT [{s}][1]",
    "SELECT run FROM events WHERE run IN ({s}, 'x')", "SELECT run FROM events WHERE run IN ({s})",
    "SELECT CAST({s} AS String)", "SELECT {s} FROM events LIMIT 1 BY {s}",
    "SELECT count() FILTER (WHERE {s} != '') FROM events", "SELECT a FROM (SELECT {s} AS a)",
    "SELECT run FROM events WHERE kind = {s} UNION ALL SELECT 'x'", "SELECT run FROM events ARRAY JOIN [{s}] AS z",
    "SELECT EXISTS (SELECT {s})", "SELECT 1 BETWEEN {s} AND 2", "SELECT multiIf({s} = '', 1, 2)", "SELECT {s} IS NULL",
    "SELECT 1 LIMIT 1 OFFSET length({s})", "SELECT run FROM events LIMIT length({s}), 1", "SELECT TOP 1 {s}",
    "SELECT run FROM events ORDER BY run OFFSET 1 ROW FETCH FIRST length({s}) ROWS ONLY",
    "SELECT {s} IS NOT DISTINCT FROM 1", "SELECT sum(1) OVER w FROM events WINDOW w AS (PARTITION BY {s})",
    "SELECT sum(1) OVER (ORDER BY {s} DESC) FROM events",
    "SELECT sum(1) OVER (ORDER BY 1 ROWS BETWEEN length({s}) PRECEDING AND CURRENT ROW) FROM events",
    "SELECT 1 AS a ORDER BY a WITH FILL STEP length({s})", "SELECT 1 AS a ORDER BY a WITH FILL STALENESS length({s})",
    "SELECT count() FROM events GROUP BY GROUPING SETS (({s}), (run))",
    "SELECT count() FROM events GROUP BY ROLLUP({s})", "SELECT e.run FROM events AS e JOIN spans AS s ON e.run = {s}",
    "SELECT run FROM events ARRAY JOIN splitByChar('', {s}) AS z", "SELECT INTERVAL length({s}) DAY",
    "SELECT EXTRACT(YEAR FROM {s})", "SELECT SUBSTRING({s} FROM 1)", "SELECT TRIM(BOTH {s} FROM 'x')",
    "SELECT POSITION('a' IN {s})", "SELECT CASE {s} WHEN 'a' THEN 1 END", "SELECT 1 ? {s} : 2", "SELECT {s} LIKE '%'",
    "SELECT -length({s})", "SELECT DATE_ADD(DAY, length({s}), now())", "SELECT {s}::String", "SELECT {s} || 'x'",
    "SELECT NOT {s}", "SELECT DISTINCT ON ({s}) 1", "SELECT COLUMNS('run') REPLACE ({s} AS run) FROM events",
    "SELECT 'a' = ANY (SELECT {s})", "SELECT tuple({s}).1", "SELECT 1 AS x, x + {s}",
    "SELECT uniq({s}) FROM events QUALIFY {s} = 1", "SELECT 1 AS `{s}`, {s}",
)  # fmt: skip
_STATEMENTS = (
    "SELECT 1 INTO OUTFILE '{out}'", "SELECT 1 INTO OUTFILE '{out}' TRUNCATE FORMAT CSV",
    "SELECT 1 INTO OUTFILE '{out}' APPEND", "SELECT run FROM events INTO OUTFILE '{out}' COMPRESSION 'none' LEVEL 1",
    "SELECT 1 INTO OUTFILE '{out}' AND STDOUT", "(SELECT 1) INTO OUTFILE '{out}'",
    "WITH 1 AS x SELECT x INTO OUTFILE '{out}'", "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{out}'",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
    "SELECT 1 SETTINGS format_schema = '{secret}' FORMAT Protobuf", "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)", "SELECT 1 FORMAT Null",
    "SELECT * FROM events SETTINGS log_queries = 1", "SELECT 1; SELECT * FROM file('{secret}')",
    "SELECT 1; DROP TABLE events", "SELECT * APPLY(file) FROM (SELECT '{secret}')",
    "SELECT COLUMNS('a') APPLY(x -> file(x)) FROM (SELECT '{secret}' AS a)",
    "SELECT a.* APPLY(file) FROM (SELECT '{secret}') AS a",
    "SELECT COLUMNS(x) APPLY file FROM (SELECT '{secret}' AS x)", "INSERT INTO events (run) VALUES ('x')",
    "INSERT INTO events (run) SELECT 'x'", "INSERT INTO events FROM INFILE '{secret}' FORMAT CSV",
    "INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1",
    "INSERT INTO FUNCTION url('http://{host}/', 'CSV', 'a Int8') SELECT 1", "ALTER TABLE events DELETE WHERE 1",
    "ALTER TABLE events ADD COLUMN x String", "ALTER TABLE events DROP PARTITION ALL",
    "ALTER TABLE events EXPORT PART 'x' TO TABLE y", "DELETE FROM events WHERE 1",
    "UPDATE events SET run = 'x' WHERE 1", "DROP TABLE events", "DROP DATABASE enchanted", "TRUNCATE TABLE events",
    "DETACH TABLE events", "ATTACH TABLE events",
    "ATTACH TABLE x FROM '{folder}' (a Int8) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a String) ENGINE = File(CSV, '{secret}')",
    "CREATE TABLE x (a String) ENGINE = URL('http://{host}/', CSV)",
    "CREATE TABLE x (a String) ENGINE = S3('http://{host}/b/x', 'CSV')",
    "CREATE TABLE x (a String) ENGINE = MySQL('{host}', 'd', 't', 'u', 'p')",
    "CREATE DATABASE x ENGINE = Filesystem('{folder}')",
    "CREATE DICTIONARY x (a Int8) PRIMARY KEY a SOURCE(HTTP(URL 'http://{host}' FORMAT CSV)) LAYOUT(FLAT())",
    "CREATE DICTIONARY x (a Int8) PRIMARY KEY a SOURCE(EXECUTABLE(COMMAND 'id' FORMAT CSV)) LAYOUT(FLAT()) LIFETIME(1)",
    "CREATE FUNCTION x AS y -> file(y)", "CREATE NAMED COLLECTION x AS url = 'http://{host}/'", "CREATE USER x",
    "GRANT ALL ON *.* TO reader", "CREATE MATERIALIZED VIEW x ENGINE = File(CSV) AS SELECT run FROM events",
    "CREATE TEMPORARY TABLE x (a Int8)", "BACKUP TABLE events TO File('{out}')",
    "BACKUP DATABASE enchanted TO Disk('default', 'x')", "RESTORE TABLE events FROM File('{secret}')",
    "SYSTEM FLUSH LOGS", "SYSTEM SHUTDOWN", "SYSTEM RELOAD CONFIG", "KILL QUERY WHERE 1", "SET max_execution_time = 0",
    "SET readonly = 0", "USE system", "OPTIMIZE TABLE events FINAL", "RENAME TABLE events TO x",
    "EXCHANGE TABLES events AND spans", "UNDROP TABLE events", "SHOW TABLES", "SHOW PROCESSLIST",
    "SHOW CREATE TABLE events", "SHOW GRANTS", "DESCRIBE TABLE events", "EXISTS TABLE events", "CHECK TABLE events",
    "WATCH events", "BEGIN", "COMMIT", "EXECUTE AS x SELECT 1", "EXPLAIN SELECT 1",
    "EXPLAIN ESTIMATE SELECT * FROM events", "SELECT {{x:Identifier}} FROM {{t:Identifier}}",
    "SELECT * FROM {{t:Identifier}}", "SELECT {{x:String}}", "VALUES (1)", "1", "events",
    "DESC = 1 FROM file('{secret}', 'LineAsString')", "file('{secret}')", "SELECT * FROM events STREAM",
    "COPY events TO '{out}'", "PREPARE x AS SELECT 1", "CALL x()", "IMPORT TABLE x FROM '{secret}'",
    "LOAD DATA INFILE '{secret}' INTO TABLE events",
)  # fmt: skip


def attacks(canary: Canary, count: int, seed: int) -> list[str]:
    """So many different statements; the first half are plain ones, the others disguised, some beyond recognition."""
    dice = random.Random(seed)
    plain = plain_attacks(canary)
    dice.shuffle(plain)
    found = dict.fromkeys(plain[: count // 2])
    while len(found) < count:
        found.setdefault(dice.choice(_DISGUISES)(dice.choice(plain), dice))
    return list(found)


def plain_attacks(canary: Canary) -> list[str]:
    """Every statement of the grammar: it reaches a file, a socket or what is not a table of events where it may."""
    return list(dict.fromkeys(_plain(canary)))


def _plain(canary: Canary) -> Iterator[str]:
    words = {"secret": canary.secret, "out": canary.out, "host": canary.host, "folder": str(canary.folder)}
    for template, source in product(_FROM, _sources(canary)):
        yield template.replace("{t}", source)
    for template, scalar in product(_WHERE, _SCALARS):
        yield template.replace("{s}", scalar.format(**words))
    for statement in _STATEMENTS:
        yield statement.format(**words)


def _sources(canary: Canary) -> Iterator[str]:
    address = f"'http://{canary.host}/bucket/x'"
    for name in _BY_URL:
        yield f"{name}({address})"
        yield f"{name}({address}, 'CSV', 'a String')"
        yield f"{name}({address}, 'key', 'word', 'CSV', 'a String')"
    for name in _BY_HOST:
        yield f"{name}('{canary.host}', 'd', 't', 'u', 'p')"
        yield f"{name}('{canary.host}', system.one)"
    for name in _BY_PATH:
        yield f"{name}('{canary.secret}')"
        yield f"{name}('{canary.secret}', 'LineAsString', 'a String')"
    yield from (name.replace("{secret}", canary.secret) for name in _FILES)
    yield from (f"system.{name}" for name in _SYSTEM)
    yield from (
        "information_schema.tables",
        "INFORMATION_SCHEMA.COLUMNS",
        "schema_migrations",
        "enchanted.schema_migrations",
    )


def _comments(sql: str, dice: random.Random) -> str:
    between = ["/**/", " /* ; */ ", " -- x\n", "\n", "\t", " # x\n", " #!x\n", "/*\n*/"]
    return "".join(dice.choice(between) if char == " " and dice.random() < 0.5 else char for char in sql)


def _letters(sql: str, dice: random.Random) -> str:
    # Within quotes nothing may change, or the attack would be another one.
    pieces = sql.split("'")
    pieces[::2] = ["".join(dice.choice((char.upper(), char.lower())) for char in piece) for piece in pieces[::2]]
    return "'".join(pieces)


def _spaces(sql: str, dice: random.Random) -> str:
    odd = ["\u00a0", "\u2003", "\ufeff", "\u3000", "\x0b", "\x0c", "\u200b", "\x00", "\r", "\u2028"]
    place = dice.randrange(len(sql) + 1)
    return sql[:place] + dice.choice(odd) + sql[place:]


def _hidden(sql: str, dice: random.Random) -> str:
    around = [
        ("SELECT 1 --\n;", ""), ("SELECT 1 /* */ ; ", ""), ("SELECT '\\'' AS a, ", ""), ("SELECT 1e--1\n, ", ""),
        ("", " --"), ("SELECT “'” ; ", " “'”"), ("SELECT ‘\\’ ; ", " ‘"), ("SELECT x'\\' ; ", " '"),
        ("SELECT $a$ $a$ ; ", ""), ("", " /*"), ("SELECT $$ ' $$, ", ""), ("/* /* */ ", " */"),
        ("SELECT 1 UNION ALL ", ""), ("(", ")"), ("SELECT * FROM (", ")"), ("EXPLAIN AST ", ""), ("graph = 1 ", ""),
        ("WITH 1 AS a ", ""), ("SELECT 1, (", ")"), ("; ", ""), ("", " ; ;"), ("#! ", ""), ("\\", ""),
        ("SELECT \"a\\\"\" , ", ""), ("SELECT `\\`` , ", ""), ("SELECT 1 // x\n ; ", ""), ("-- x\r", ""),
        ("\ufeff", ""),
    ]  # fmt: skip
    before, after = dice.choice(around)
    return before + sql + after


def _quoted(sql: str, dice: random.Random) -> str:
    words = [word for word in ("file", "url", "remote", "system", "default", "s3", "x", "events") if word in sql]
    if not words:
        return sql + " "
    word = dice.choice(words)
    return sql.replace(word, dice.choice(("`{}`", '"{}"', "`{}\\n`", "“{}”", "\\{}")).format(word), 1)


def _cut(sql: str, dice: random.Random) -> str:
    start, end = sorted((dice.randrange(len(sql) + 1), dice.randrange(len(sql) + 1)))
    return sql[:start] + dice.choice(("", "'", '"', "`", ")", "(", ";", "\\", "/*", "--", "$")) + sql[end:]


_DISGUISES: tuple[Callable[[str, random.Random], str], ...] = (_comments, _letters, _spaces, _hidden, _quoted, _cut)
