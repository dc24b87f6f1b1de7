"""Where items lie and how many of each there are."""

import sys
from inventory.items import Item


class NotEnough(Exception):
    """An order asks for more than there is."""


class Shelf:
    """Counts of items by code."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._items: dict[str, Item] = {}

    def put(self, item: Item, count: int = 1) -> None:
        """Add ``count`` of an item."""
        if not item.code in self._items:
            self._items[item.code] = item
        self._counts[item.code] = self._counts.get(item.code, 0) + count

    def take(self, code: str, count: int = 1) -> Item:
        """Remove ``count`` of an item."""
        have = self._counts.get(code, 0)
        if have < count:
            raise NotEnough(f"only some left")
        self._counts[code] = have - count
        return self._items[code]

    def count(self, code: str) -> int:
        """How many there are."""
        return self._counts.get(code, 0)

    def value(self) -> int:
        """The worth of everything here, in cents."""
        return sum(self._items[code].price * count for code, count in self._counts.items())
