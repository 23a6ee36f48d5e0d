"""The command line, and the commands that combine several roles: demo, status, replay, doctor."""
