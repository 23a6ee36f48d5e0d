"""Health, readiness and metrics of a service, over HTTP."""
