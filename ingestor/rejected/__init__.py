"""Refused messages: the quarantine, its bounds, and its commands."""
