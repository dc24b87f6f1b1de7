"""Questions to the whole log: events, runs, agents, facets, decisions, SQL, the pipeline and the cluster."""
