"""Experiments: suites of runs under virtual time, and the reports of their results.

Invariants: every cell runs the production planner, aggregator and worker. A report reads only the
cells' `result.json` and the suite's own file.
"""
