"""The one way to reach PostgreSQL: session settings, kinds of failure, words for people."""
