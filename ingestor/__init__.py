"""From MQTT into PostgreSQL: source → decode → batch → sink. It owns the schema."""
