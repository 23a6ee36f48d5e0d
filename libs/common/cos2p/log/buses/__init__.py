"""The buses: memory for tests, SQLite for one machine, Kafka for a cluster; one contract suite."""
