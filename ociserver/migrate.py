"""`lading migrate`: bring the catalog's schema to this release. Any number may run at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ociserver.app import migrate_catalog, place
from ociserver.errors import LadingError
from ociserver.settings import SettingInvalid, load

_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Migrate; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lading migrate",
        description="Bring the catalog's schema to this release. Takes the settings of `serve`.",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    parser.add_argument("--catalog", metavar="CATALOG", help="the catalog's URL")
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value}
    config = given.pop("config", None) or os.environ.get("LADING_CONFIG")
    try:
        settings = load(given, os.environ, Path(config) if config else None)
        migrate_catalog(settings.catalog)
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading migrate: {error}\n")
        return _USAGE
    sys.stdout.write(f"the catalog at {place(settings.catalog)} is of this release\n")
    return 0
