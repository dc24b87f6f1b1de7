"""The embedded store: chDB in one process behind the ClickHouse HTTP protocol."""
