"""HTTP served within bounds: what the API and the ingestor's metrics port share."""
