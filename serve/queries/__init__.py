"""Questions to the whole log: events, runs and their start, agents, facets, decisions, SQL, the cluster."""
