"""The commands of `enchanted`, one module per family; each has ``register(app)``."""
