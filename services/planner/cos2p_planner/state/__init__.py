"""What the planner knows: folds of the log, and nothing that decides."""
