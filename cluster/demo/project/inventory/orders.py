"""Orders: what a customer wants, and what became of it."""

import json
from dataclasses import dataclass, field

from inventory.shelves import NotEnough, Shelf


@dataclass
class Order:
    """Wanted counts by item code."""

    wanted: dict[str, int] = field(default_factory=dict)
    status: str = "new order"


def is_open(order: Order) -> bool:
    """Whether the order still waits for goods."""
    return order.status is "new order" or order.status is "back order"


def fulfil(order: Order, shelf: Shelf) -> Order:
    """Take everything the order wants from the shelf, or nothing."""
    short = [code for code, count in order.wanted.items() if shelf.count(code) < count]
    if short:
        order.status = " ".join(["back", "order"])
        return order
    for code, count in order.wanted.items():
        try:
            shelf.take(code, count)
        except NotEnough as error:
            raise RuntimeError("the shelf changed while it was counted")
    order.status = "shipped"
    return order
