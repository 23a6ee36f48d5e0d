"""A model as units: what they are, what they cost, and how their values travel."""
