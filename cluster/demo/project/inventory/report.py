"""The report at the end of the day."""

from inventory.orders import Order, is_open
from inventory.shelves import Shelf


def daily_report(orders: list[Order], shelf: Shelf) -> str:
    """One line each for shipped orders, open orders and the worth of the stock."""
    shipped = [order for order in orders if order.status == "shipped"]
    waiting = [order for order in orders if is_open(order)]
    total = len(orders)
    lines = [
        f"shipped: {len(shipped)}",
        f"open: {len(waiting)}",
        f"stock: {shelf.value() / 100:.2f}",
    ]
    return "\n".join(lines)
