"""Who may come in, how often and how much, and how a refusal looks."""
