"""Readings that were taken out of every answer, and put back: what the commands, the API and the flush share."""
