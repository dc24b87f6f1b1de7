"""Who may come in, how often, how much and with which SQL, and how a refusal looks."""
