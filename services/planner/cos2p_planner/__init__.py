"""The planner: it alone decides who trains what, which updates count and when a version closes."""
