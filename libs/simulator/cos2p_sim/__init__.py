"""The simulator runs the production roles on virtual time, with faults drawn from a seed."""
