"""Lading's registry: OCI Distribution on a small catalog and a write-once blob store."""

__version__ = "0.1.0"
