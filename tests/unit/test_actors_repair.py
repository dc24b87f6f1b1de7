"""Which modules a search for repairs looks at."""

from __future__ import annotations

import pytest

from enchanted.actors.tools.repair import imported_files

FILES = ("shop/items.py", "shop/__init__.py", "tests/test_items.py")


def test_the_files_that_a_module_imports_are_found_by_their_names() -> None:
    assert imported_files("from shop.items import Item\n", FILES) == ["shop/items.py"]
    assert imported_files("from shop import items\n", FILES) == ["shop/items.py"]


DEEPER_THAN_A_PARSER_GOES = {
    "signs": "x = " + "-" * 100_000 + "1\n",
    "terms": "x = " + " + ".join(["1"] * 100_000) + "\n",
    "attributes": "x = a" + ".b" * 100_000 + "\n",
    "brackets": "x = " + "(" * 100_000 + "\n",
    "a NUL": "x = 1\0\n",
}


@pytest.mark.parametrize("source", DEEPER_THAN_A_PARSER_GOES.values(), ids=DEEPER_THAN_A_PARSER_GOES)
def test_a_module_that_the_parser_gives_up_on_imports_nothing(source: str) -> None:
    assert imported_files(source, FILES) == []
