"""The schema's revisions: Alembic's scripts in `migrations/`, run on a connection of ours.

Alembic is loaded only where there is something to do: a start that finds its own schema pays
for one query.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from ociserver.errors import Unavailable

# The newest script in `migrations/versions`.
REVISION = "0007"


def upgrade(db: Connection) -> None:
    """Bring the schema to this release, within the caller's transaction. Raises Unavailable."""
    found = _revision(db)
    if found == REVISION:
        return
    from alembic import command  # noqa: PLC0415 - a third of a second, for once in a release
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.util import CommandError  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", "ociserver.storage:migrations")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise _foreign(found) from error


def check(db: Connection) -> None:
    """Raise Unavailable unless the schema is this release's."""
    found = _revision(db)
    if found is None:
        raise Unavailable("the catalog has no tables yet: run `lading migrate`")
    if found != REVISION:
        raise _foreign(found)


def _revision(db: Connection) -> str | None:
    if not inspect(db).has_table("alembic_version"):
        return None
    return db.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _foreign(found: str | None) -> Unavailable:
    return Unavailable(
        f"the catalog has schema {found}, this release reads {REVISION}: run `lading migrate` "
        "of the newer of the two releases"
    )
