import unittest

from inventory.items import Item
from inventory.orders import Order, fulfil, is_open
from inventory.report import daily_report
from inventory.shelves import NotEnough, Shelf


def stocked() -> Shelf:
    shelf = Shelf()
    shelf.put(Item("AB-0001", "Lamp", 1999), 3)
    shelf.put(Item("AB-0002", "Desk", 24900))
    return shelf


class OrdersTest(unittest.TestCase):
    def test_an_order_takes_its_items(self):
        shelf = stocked()
        order = fulfil(Order({"AB-0001": 2}), shelf)
        self.assertEqual((order.status, shelf.count("AB-0001")), ("shipped", 1))

    def test_an_order_for_too_much_takes_nothing(self):
        shelf = stocked()
        order = fulfil(Order({"AB-0001": 2, "AB-0002": 2}), shelf)
        self.assertEqual((order.status, shelf.count("AB-0001")), ("back order", 3))

    def test_a_back_order_is_open(self):
        order = fulfil(Order({"AB-0002": 2}), stocked())
        self.assertTrue(is_open(order))

    def test_taking_too_much_is_an_error(self):
        with self.assertRaises(NotEnough):
            stocked().take("AB-0002", 5)

    def test_the_report_counts_open_orders(self):
        shelf = stocked()
        orders = [fulfil(Order({"AB-0001": 1}), shelf), fulfil(Order({"AB-0002": 9}), shelf)]
        self.assertEqual(daily_report(orders, shelf).splitlines()[:2], ["shipped: 1", "open: 1"])


if __name__ == "__main__":
    unittest.main()
