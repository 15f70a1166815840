"""The HTTP side: what devices reported and what it means, read from PostgreSQL. It never writes a reading itself."""
