"""`lading migrate`: bring the catalog's schema to this release. Any number may run at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ociserver.errors import LadingError
from ociserver.settings import SettingInvalid, add_options, given
from ociserver.stores import migrate_catalog, place

_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Migrate; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lading migrate",
        description="Bring the catalog's schema to this release. Takes the settings of `serve`.",
    )
    add_options(parser, {"catalog"})
    options = parser.parse_args(arguments)
    try:
        settings = given(options, os.environ)
        migrate_catalog(settings.catalog)
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading migrate: {error}\n")
        return _USAGE
    sys.stdout.write(f"the catalog at {place(settings.catalog)} is of this release\n")
    return 0
