"""What every service has around its core: its life, its logs, its bus."""
