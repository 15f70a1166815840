"""Chores: work on the tables now and then, off the path of the readings."""
