# Acts: when a change is said to have been made.
from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

from mlext.acts import act
from mlext.ports import ModelsCatalog
from mlext.storage.catalog import ROWS
from ociserver.admission import Author
from ociserver.storage.catalog import SqlCatalogTx
from ociserver.storage.sqlite import SqliteCatalog

ANN = Author(name="user:ann", may=lambda *_: True, may_somewhere=lambda *_: True)


def test_what_waited_for_its_turn_is_dated_from_its_turn(tmp_path: Path) -> None:
    async def main() -> None:
        rows: Any = type("Tx", (SqlCatalogTx, *ROWS), {})
        catalog = SqliteCatalog(tmp_path / "catalog.db", rows)
        try:
            ended: list[float] = []

            def long_write(_: object) -> None:
                time.sleep(0.1)
                ended.append(time.time())

            before = asyncio.create_task(catalog.write(long_write))
            await asyncio.sleep(0.01)
            # Who asks where an alias stood in that time must not be told of this.
            at = await act(cast("ModelsCatalog", catalog), ANN, lambda doing: doing.at)
            await before
            assert at >= round(ended[0], 6)
        finally:
            await catalog.aclose()

    asyncio.run(main())
