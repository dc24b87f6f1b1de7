"""Runs as files: NDJSON, Arrow, Parquet, and one page of HTML."""
