"""Published methods to compare with, and all policies by name."""
