"""Signed records, which prove to the planner who wrote a record on `fleet`."""
