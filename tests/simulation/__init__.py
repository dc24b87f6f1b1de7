"""Publishers, ingest workers and reconciler in one process, one thread and a time of their own; a seed is a history."""
