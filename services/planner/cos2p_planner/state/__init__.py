"""What the planner knows: folds of the log. Nothing here decides."""
