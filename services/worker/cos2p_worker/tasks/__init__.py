"""The task that ships with the worker, and the split of labels that tasks share."""
