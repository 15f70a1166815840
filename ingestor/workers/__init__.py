"""`wattline ingest --workers N`: several ingestors on one machine, as members of one share group."""
