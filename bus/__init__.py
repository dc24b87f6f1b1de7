"""The bus: the only folder that knows NATS."""
