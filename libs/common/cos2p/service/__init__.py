"""What every service needs around its core: lifecycle, logs and bus."""
