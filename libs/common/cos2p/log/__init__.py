"""The log: buses, messages and blobs, and how they are read and stored."""
