"""Asking PostgreSQL: connections that outlive every outage, deadlines that no question outlives."""
