"""The log: buses, messages, blobs, and how they are read and kept."""
