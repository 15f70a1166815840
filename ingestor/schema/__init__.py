"""The tables: migrations, daily partitions, and the rights of the API's role."""
