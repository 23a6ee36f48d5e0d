"""A model as units: their table, their costs, and how their values travel."""
