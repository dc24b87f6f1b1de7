"""What the API's queries have in common."""

from __future__ import annotations

from importlib import resources

SETTINGS = "SETTINGS do_not_merge_across_partitions_select_final = 1, use_skip_indexes_if_final_exact_mode = 0"


def test_every_query_with_final_reads_only_what_its_index_leaves() -> None:
    files = [one for one in resources.files("enchanted.serve").joinpath("sql").iterdir() if one.name.endswith(".sql")]
    final = {one.name: one.read_text(encoding="utf-8").rstrip() for one in files if " FINAL" in one.read_text()}

    assert len(final) >= 7
    assert [name for name, sql in final.items() if not sql.endswith(SETTINGS)] == []
