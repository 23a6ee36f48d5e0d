"""The planner's rules: pure functions of what is known."""
