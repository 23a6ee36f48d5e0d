"""What a service shows of itself: health, readiness and metrics over HTTP."""
