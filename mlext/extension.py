"""The model registry as an extension of the OCI registry: its composition root."""

from __future__ import annotations

from typing import cast

from mlext.downloads import LinkKey
from mlext.ports import ModelsCatalog
from mlext.storage.catalog import ROWS
from mlext.warden import Warden
from mlext.web.aliases import AliasDoors
from mlext.web.answers import Holding
from mlext.web.audit import AuditDoors
from mlext.web.descriptions import DescriptionDoors
from mlext.web.downloads import DownloadDoors
from mlext.web.gates import GateDoors
from mlext.web.lineage import LineageDoors
from mlext.web.places import DOCUMENTS, Handlers, places
from mlext.web.runs import RunDoors
from mlext.web.search import Listed, SearchDoors
from mlext.web.versions import VersionDoors
from ociserver.extension import House, Opened
from ociserver.fresh import FreshCache

# Of where aliases point: room for some 13,000.
_RESOLVED_BYTES = 32 * 1024 * 1024
# Of pages of one model's versions: room for some 800 of the usual size.
_LISTED_BYTES = 32 * 1024 * 1024
# For how long a request with an Idempotency-Key may be sent once more.
_ANSWERS_SECONDS = 86_400.0
_FORGET_SECONDS = 3_600.0
_OFFERS = (
    {
        "name": "_lading",
        "description": "versions, aliases, gates and lineage of models",
        "endpoints": ["_lading", "_lading/versions", "_lading/aliases"],
    },
)


class Models:
    """`ociserver.extension.Extension`."""

    rows = ROWS

    def open(self, house: House) -> Opened:
        """Put the model registry together."""
        # The registry gave its transactions our rows.
        catalog = cast("ModelsCatalog", house.catalog)
        generation = house.catalog.generation
        holding = Holding(house.is_public)
        listed: FreshCache[bytes, Listed] = FreshCache(
            generation, _LISTED_BYTES, serves_stale=False
        )
        search = SearchDoors(catalog, listed)
        aliases = AliasDoors(house, catalog, holding, FreshCache(generation, _RESOLVED_BYTES))
        descriptions = DescriptionDoors(house, catalog, holding)

        async def forget_answers() -> None:
            await catalog.write(lambda tx: tx.drop_answers(tx.now() - _ANSWERS_SECONDS))

        return Opened(
            admission=Warden(history=house.alias_history, names_alias=house.names_alias),
            places=places(
                Handlers(
                    versions=VersionDoors(house, catalog, holding),
                    descriptions=descriptions,
                    aliases=aliases,
                    runs=RunDoors(house, catalog),
                    gates=GateDoors(house, catalog),
                    lineage=LineageDoors(house, catalog),
                    downloads=DownloadDoors(house, catalog, LinkKey(catalog)),
                    audit=AuditDoors(catalog),
                    search=search,
                )
            ),
            offers=_OFFERS,
            documents=DOCUMENTS,
            background=[(_FORGET_SECONDS, forget_answers)],
            at_hand=(aliases.at_hand, search.at_hand),
            close=descriptions.aclose,
        )
