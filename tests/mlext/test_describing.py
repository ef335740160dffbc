# A description is made once for all who ask at once, and a registry that ends leaves none behind.
from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlext.web.descriptions import Describing
from ociserver.content import OCI_MANIFEST
from ociserver.errors import Unavailable
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName, parse_name
from tests.mlext.formats.packing import Blobs, files, safetensors
from tests.mlext.models import Modelling
from tests.serving import Served, digest_of

HERE, THERE = parse_name("team/a"), parse_name("team/b")
PATIENCE = 10.0


class Shelf:
    """Blobs that are read once `open` is set."""

    def __init__(self, *names: str) -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.reads: list[RepositoryName] = []
        self._blobs = Blobs()
        header = {"t": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}
        document = files(self._blobs, dict.fromkeys(names, safetensors(header, 4)))
        body = json.dumps(document).encode()
        self.stored = StoredManifest(
            digest=Digest(digest_of(body)), media_type=OCI_MANIFEST, body=body
        )

    async def read(self, name: RepositoryName, digest: Digest, offset: int, count: int) -> bytes:
        self.reads.append(name)
        self.asked.set()
        await self.open.wait()
        return await self._blobs.read(digest, offset, count)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("describe")]


def test_those_who_ask_at_once_get_one_that_is_made_once() -> None:
    async def story() -> None:
        shelf = Shelf("a.safetensors")
        describing = Describing(shelf.read)
        asked = [asyncio.create_task(describing.made(HERE, shelf.stored)) for _ in range(5)]
        elsewhere = asyncio.create_task(describing.made(THERE, shelf.stored))
        await asyncio.wait_for(shelf.asked.wait(), PATIENCE)
        # Who asked first has gone, and the others are none the worse.
        asked[0].cancel()
        shelf.open.set()
        found = await asyncio.gather(*asked[1:], elsewhere)
        assert {json.loads(each)["parameters"] for each in found} == {2}
        of_one = shelf.reads.count(HERE)
        # What another repository links is its own: nothing is told of it by this one's.
        assert shelf.reads.count(THERE) == of_one
        # And what was told without a warning is told again without a look.
        assert await describing.made(HERE, shelf.stored) == found[0]
        assert shelf.reads.count(HERE) == of_one
        await describing.aclose()
        assert threads() == []

    asyncio.run(story())


def test_one_that_waits_for_bytes_ends_with_the_registry() -> None:
    async def story() -> None:
        shelf = Shelf("a.safetensors")
        describing = Describing(shelf.read)
        # More than are made at a time: the last never begins.
        asked = [
            asyncio.create_task(describing.made(parse_name(f"team/m{number}"), shelf.stored))
            for number in range(4)
        ]
        await asyncio.wait_for(shelf.asked.wait(), PATIENCE)
        await asyncio.wait_for(describing.aclose(), PATIENCE)
        assert threads() == []
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in ended} <= {Unavailable, asyncio.CancelledError}
        assert any(isinstance(each, Unavailable) for each in ended)

    asyncio.run(story())


def test_one_that_nobody_waits_for_fails_in_silence() -> None:
    async def story() -> list[object]:
        said: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: said.append(found))
        shelf = Shelf("a.safetensors")
        describing = Describing(shelf.read)
        asked = asyncio.create_task(describing.made(HERE, shelf.stored))
        await asyncio.wait_for(shelf.asked.wait(), PATIENCE)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await describing.aclose()
        return said

    assert asyncio.run(story()) == []


# A registry from start to end, asked for one description, in a process of its own.
SCRIPT = """
import asyncio, sys, threading
from ociserver.app import create_app
from ociserver.settings import Settings

data, path = sys.argv[1:]

def threads():
    return sorted(each.name for each in threading.enumerate() if each.name.startswith("describe"))

async def main():
    app = create_app(Settings(catalog=f"sqlite:///{data}/catalog.db", blobs=f"file:///{data}/blobs"))
    told, said = asyncio.Queue(), asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    await said.get()
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": [], "client": ("127.0.0.1", 1)}
    await app(scope, told.get, said.put)
    print((await said.get())["status"], threads())
    await told.put({"type": "lifespan.shutdown"})
    await life
    print(threads())

asyncio.run(main())
"""


def test_a_registry_that_described_something_keeps_no_thread(tmp_path: Path) -> None:
    served = Served(tmp_path).start()
    with served.client() as client:
        models = Modelling(client)
        model = models.name()
        models.register(model)
    served.stop()
    path = f"/v1/models/{model}/versions/1/description"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["200 ['describe_0']", "[]"], done
