"""Whether the log of a run is intact and complete."""
