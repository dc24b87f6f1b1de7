import unittest

from inventory.items import Item, parse_item


class ItemsTest(unittest.TestCase):
    def test_a_line_becomes_an_item(self):
        self.assertEqual(parse_item("AB-0001; Lamp ;1999"), Item("AB-0001", "Lamp", 1999))

    def test_a_bad_code_is_refused(self):
        with self.assertRaises(ValueError):
            parse_item("lamp;Lamp;1999")

    def test_the_label_has_the_price_in_whole_coins(self):
        self.assertEqual(Item("AB-0001", "Lamp", 1999).label(), "AB-0001 Lamp 19.99")


if __name__ == "__main__":
    unittest.main()
