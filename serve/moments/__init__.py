"""A run at any sequence: its state, its files and their history, and what differs between two."""
