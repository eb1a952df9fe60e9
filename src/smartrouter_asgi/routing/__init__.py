"""From a model's name to an ordered plan of deployments."""
