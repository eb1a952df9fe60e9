"""What the gateway costs, measured: run `python -m benchmarks.overhead` or `python -m benchmarks.layers`."""
