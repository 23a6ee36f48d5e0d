"""A run as its log tells it: one loop that reads, one fold, one row for each thing in it."""
