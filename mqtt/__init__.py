"""A small MQTT 5 client on asyncio: connect, subscribe, publish, acknowledge by hand, come back after a loss.

It knows nothing of readings, and nothing of PostgreSQL.
"""
