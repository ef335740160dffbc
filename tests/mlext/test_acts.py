# Acts: when a change is said to have been made.
from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mlext.acts import act
from ociserver.storage.sqlite import SqliteCatalog
from tests.mlext.acting import TRANSACTION, as_models, author

ANN = author("user:ann")


def test_what_waited_for_its_turn_is_dated_from_its_turn(tmp_path: Path) -> None:
    async def main() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db", TRANSACTION)
        try:
            ended: list[float] = []

            def long_write(_: object) -> None:
                time.sleep(0.1)
                ended.append(time.time())

            before = asyncio.create_task(catalog.write(long_write))
            await asyncio.sleep(0.01)
            # Who asks where an alias stood in that time must not be told of this.
            at = await act(as_models(catalog), ANN, lambda doing: doing.at)
            await before
            assert at >= round(ended[0], 6)
        finally:
            await catalog.aclose()

    asyncio.run(main())
