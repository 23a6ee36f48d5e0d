"""The worker: it trains submodels on its own data. It is the only package that imports torch."""
