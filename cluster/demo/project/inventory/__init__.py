"""Items on shelves, orders against them."""
