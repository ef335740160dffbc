"""`make bench`: Lading beside its peers; `run.py stores` is the part on PostgreSQL and S3."""

import importlib
import sys
from pathlib import Path

# A script's own folder is on the path; the package `bench` lies one above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    stores = sys.argv[1:2] == ["stores"]
    if stores:
        del sys.argv[1]
    sys.exit(importlib.import_module("bench.stores" if stores else "bench.suite").main())
