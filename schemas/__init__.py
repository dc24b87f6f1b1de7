"""The contract: the event, its hashes, its chains, its fold. No I/O happens here."""
