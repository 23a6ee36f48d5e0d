"""Co-S2P's shared library: units, messages and buses.

Invariant: it imports neither a service nor torch.
"""

__version__ = "0.1.0"
