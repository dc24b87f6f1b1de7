"""A benchmark's result as a picture: medians with their range, and what the budget allows."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.28
"""Inches of height a bar takes."""


class NoPlotter(Exception):
    """matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib; install it with: pip install 'matplotlib>=3.10'")


def require_plotter() -> None:
    """Before anything is measured.

    Raises:
        NoPlotter: matplotlib is not there.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise NoPlotter from error


def draw(result: dict[str, Any], folder: Path) -> Path:
    """Write ``<benchmark>.svg``: axes for each unit, a bar for each row; returns its path.

    Raises:
        NoPlotter: matplotlib is not there.
        OSError: the folder cannot be written.
    """
    require_plotter()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    units = by_unit(result["rows"])
    heights = [len(rows) + 1.5 for _, rows in units]
    figure = Figure(figsize=(11, ROW * sum(heights) + 1.0), layout="constrained")
    figure.suptitle(f"{result['benchmark']}: {result['question']}\n{result['machine']}", fontsize=9, wrap=True)
    shown = figure.subplots(len(units), 1, squeeze=False, height_ratios=heights)
    for axes, (unit, rows) in zip(shown.flat, units, strict=True):
        _bars(axes, unit, rows)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['benchmark']}.svg"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "enchanted"}):
        figure.savefig(path, metadata={"Date": None})
    return path


def by_unit(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of one unit together, units in the order they come first."""
    order = list(dict.fromkeys(row["unit"] for row in rows))
    ordered = sorted(rows, key=lambda row: order.index(row["unit"]))
    return [(unit, list(some)) for unit, some in groupby(ordered, key=lambda row: row["unit"])]


def _bars(axes: Axes, unit: str, rows: list[dict[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["min"] for row in rows]
    above = [row["max"] - row["median"] for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, xerr=[below, above], color="#6b8fb5", ecolor="#333333", capsize=2, height=0.7)
    for place, row in zip(places, rows, strict=True):
        if (limit := _limit(row, rows)) is not None:
            color = "#2b7a3d" if row["within"] else "#b3261e"
            axes.plot([limit, limit], [place - 0.4, place + 0.4], color=color, linewidth=2)
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _limit(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float | None:
    """Where the budget is, in the row's unit."""
    if "budget" not in row:
        return None
    if not row["budget_is"].endswith("ratio"):
        return float(row["budget"])
    floors = [one["median"] for one in rows if one["name"] == row["floor"]]
    return row["budget"] * floors[0] if floors else None
