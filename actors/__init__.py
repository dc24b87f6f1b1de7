"""The swarm: roles, engines, workspaces, tools, and the orchestrator that drives them."""
