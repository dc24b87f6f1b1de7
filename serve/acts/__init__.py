"""What changes something: restore, undo, fork, rerun, recovery."""
