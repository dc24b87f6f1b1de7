"""Rerun: the swarm's real code driven by what a run's log says models and tools answered; nothing else is executed."""
