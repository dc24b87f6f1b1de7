"""ClickHouse and the bus to people: the HTTP API on Ray Serve."""
