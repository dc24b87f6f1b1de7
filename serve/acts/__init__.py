"""The verbs on a run: restore, undo, fork, rerun; and where to go on after a failure."""
