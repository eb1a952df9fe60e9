"""Everything that is not inference: models, health, metrics, admin."""
