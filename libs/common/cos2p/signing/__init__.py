"""Signed records: who said what on `fleet`, provable to the planner."""
