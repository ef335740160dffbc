"""`make bench`: Lading beside its peers; `run.py stores` is the part on PostgreSQL and S3,
`run.py access` the part with rules in force, `run.py models` that on the model registry.
"""

import importlib
import sys
from pathlib import Path

# A script's own folder is on the path; the package `bench` lies one above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PARTS = {"stores": "bench.stores", "access": "bench.access", "models": "bench.models"}

if __name__ == "__main__":
    part = PARTS.get(sys.argv[1]) if sys.argv[1:] else None
    if part:
        del sys.argv[1]
    sys.exit(importlib.import_module(part or "bench.suite").main())
