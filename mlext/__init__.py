"""The model registry: versions, runs, aliases, gates and lineage on top of an OCI registry."""
