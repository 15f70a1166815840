"""What devices are told of their readings, after COMMIT."""
