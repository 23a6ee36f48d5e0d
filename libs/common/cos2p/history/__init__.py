"""The history of a run, computed from its log.

One loop reads the log, and one fold makes a row for each plan, device and version.
"""
