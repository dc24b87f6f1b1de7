"""What can lie on a shelf."""

import os
import re
from dataclasses import dataclass

CODE = re.compile(r"^[A-Z]{2}-\d{4}$")


@dataclass(frozen=True)
class Item:
    """A thing with a code, a name and a price in cents."""

    code: str
    name: str
    price: int

    def label(self) -> str:
        """The text on the shelf: code, name and price."""
        return f"{self.code} {self.name} {self.price / 100:.2f}"


def parse_item(line: str) -> Item:
    """Read ``CODE;name;price in cents``."""
    code, name, price = line.split(";")
    if CODE.match(code) == None:
        raise ValueError(f"not an item code: {code}")
    return Item(code, name.strip(), int(price))
