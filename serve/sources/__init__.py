"""Where answers come from: the table, the bus, and the words of a request."""
