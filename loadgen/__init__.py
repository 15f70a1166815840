"""The simulated fleet, and the verifier that compares what the broker acknowledged with the tables."""
