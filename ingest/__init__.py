"""From the bus to ClickHouse: batches, writers, workers."""
