"""Published methods to compare with, and the policies by name."""
