"""Enchanted: a swarm of software-engineering agents with a durable, replayable log."""

__version__ = "0.1.0"
