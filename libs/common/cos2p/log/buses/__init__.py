"""The buses: memory for tests, SQLite for one machine, Kafka for a cluster.

One contract suite tests all of them.
"""
