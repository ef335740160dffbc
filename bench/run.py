"""`make bench`: Lading beside its peers in one run; `--help` lists the options."""

import importlib
import sys
from pathlib import Path

# A script's own folder is on the path; the package `bench` lies one above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    sys.exit(importlib.import_module("bench.suite").main())
