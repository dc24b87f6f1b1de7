"""The package: three places that must name the same folders."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]


def test_links_wheel_and_sdist_hold_the_same_folders() -> None:
    links = {link.name for link in (ROOT / "src/enchanted").iterdir() if link.is_symlink()}
    sources = {name for name in CONFIG["wheel"]["sources"] if not name.startswith("src/")}
    wheel = {name for name in CONFIG["wheel"]["only-include"] if not name.startswith("src/")}
    sdist = {name for name in CONFIG["sdist"]["only-include"] if not name.startswith("src/")}
    assert links == sources == wheel == sdist - {"tests"}


def test_no_folder_of_ours_is_imported_by_its_bare_name() -> None:
    folders = {"actors", "bus", "schemas", "ingest", "serve", "cluster", "benchmarks"}
    assert not folders & set(sys.modules)
