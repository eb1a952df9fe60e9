"""The one place that knows an HTTP client library, and the framing of streams."""
