"""The cache of what was read from the catalog: bounded, and exact under changes by any worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.errors import ManifestUnknown, Unavailable
from ociserver.fresh import FreshCache
from ociserver.refs import RepositoryName, parse_name

quick = settings(derandomize=True, deadline=None, max_examples=100)
KIB = 1024
HERE, ELSEWHERE = parse_name("here"), parse_name("elsewhere")


class Catalog:
    """What the cache knows of one: it changes, and it is read."""

    def __init__(self) -> None:
        self.changes = 0
        self.value = "first"
        self.reads = 0

    def generation(self, repository: RepositoryName) -> int:
        return self.changes if repository == HERE else 0

    def change(self, value: str) -> None:
        self.value = value
        self.changes += 1

    async def read(self) -> str:
        self.reads += 1
        return self.value


def no_bytes(value: str) -> int:
    return 0


def test_a_kept_value_is_not_read_again() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        for _ in range(3):
            assert await cache.get_or_read("key", HERE, catalog.read, no_bytes) == "first"
        assert cache.get("key") == "first"
        assert catalog.reads == 1

    asyncio.run(story())


def test_a_change_by_any_worker_drops_every_value() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        await cache.get_or_read("one", HERE, catalog.read, no_bytes)
        await cache.get_or_read("two", HERE, catalog.read, no_bytes)
        catalog.change("second")
        assert cache.get("one") is None
        assert cache.get("two") is None
        assert await cache.get_or_read("one", HERE, catalog.read, no_bytes) == "second"

    asyncio.run(story())


def test_a_change_elsewhere_drops_nothing_here() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        await cache.get_or_read("here", HERE, catalog.read, no_bytes)
        await cache.get_or_read("there", ELSEWHERE, catalog.read, no_bytes)
        catalog.change("second")
        assert (cache.get("here"), cache.get("there")) == (None, "first")

    asyncio.run(story())


def test_in_an_outage_what_was_last_read_can_be_had_unless_it_is_known_to_be_gone() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        assert cache.stale("key") is None
        await cache.get_or_read("key", HERE, catalog.read, no_bytes)
        catalog.change("second")

        async def failing(error: Exception) -> str:
            raise error

        for error, held in ((Unavailable("out of reach"), "first"), (ManifestUnknown("no"), None)):
            with pytest.raises(type(error)):
                await cache.get_or_read("key", HERE, partial(failing, error), no_bytes)
            assert cache.stale("key") == held

    asyncio.run(story())


@pytest.mark.parametrize("serves_stale", [True, False])
def test_only_who_can_serve_something_stale_gives_up_on_a_slow_catalog(
    monkeypatch: pytest.MonkeyPatch, serves_stale: bool
) -> None:
    monkeypatch.setattr("ociserver.fresh._PATIENCE_SECONDS", 0.01)

    async def story() -> str:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(
            catalog.generation, 64 * KIB, serves_stale=serves_stale
        )

        async def slow() -> str:
            await asyncio.sleep(0.1)
            return await catalog.read()

        # Nothing is there yet.
        assert await cache.get_or_read("key", HERE, slow, no_bytes) == "first"
        catalog.change("second")
        return await cache.get_or_read("key", HERE, slow, no_bytes)

    if serves_stale:
        with pytest.raises(Unavailable):
            asyncio.run(story())
    else:
        assert asyncio.run(story()) == "second"


def test_nothing_is_kept_for_longer_than_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        await cache.get_or_read("key", HERE, catalog.read, no_bytes)
        now = time.monotonic()
        monkeypatch.setattr("ociserver.fresh.time.monotonic", lambda: now + 59)
        assert cache.get("key") == "first"
        monkeypatch.setattr("ociserver.fresh.time.monotonic", lambda: now + 61)
        assert cache.get("key") is None
        assert await cache.get_or_read("key", HERE, catalog.read, no_bytes) == "first"
        assert catalog.reads == 2

    asyncio.run(story())


def test_a_generation_that_went_backwards_is_a_change_too() -> None:
    async def story() -> None:
        catalog = Catalog()
        catalog.changes = 7
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        await cache.get_or_read("key", HERE, catalog.read, no_bytes)
        catalog.changes = 3
        assert cache.get("key") is None

    asyncio.run(story())


@pytest.mark.parametrize("noticed", [True, False])
def test_a_value_read_before_a_change_is_returned_but_not_kept(noticed: bool) -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)

        async def overtaken() -> str:
            value = await catalog.read()
            catalog.change("second")
            if noticed:  # another request looks something up meanwhile
                assert cache.get("other") is None
            return value

        assert await cache.get_or_read("key", HERE, overtaken, no_bytes) == "first"
        assert cache.get("key") is None
        assert await cache.get_or_read("key", HERE, catalog.read, no_bytes) == "second"

    asyncio.run(story())


def test_an_overtaken_read_does_not_replace_what_was_read_after_the_change() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            value = await catalog.read()
            has_read.set()
            await go_on.wait()
            return value

        late = asyncio.create_task(cache.get_or_read("key", HERE, slow, no_bytes))
        await has_read.wait()
        catalog.change("second")
        assert await cache.get_or_read("key", HERE, catalog.read, no_bytes) == "second"
        go_on.set()
        assert await late == "first"
        assert cache.get("key") == "second"

    asyncio.run(story())


def test_what_a_read_raises_is_raised_and_not_kept() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[str, str] = FreshCache(catalog.generation, 64 * KIB)

        async def failing() -> str:
            raise LookupError("gone")

        with pytest.raises(LookupError):
            await cache.get_or_read("key", HERE, failing, no_bytes)
        assert await cache.get_or_read("key", HERE, catalog.read, no_bytes) == "first"

    asyncio.run(story())


async def filled(capacity: int, sizes: list[int]) -> FreshCache[int, bytes]:
    cache: FreshCache[int, bytes] = FreshCache(lambda _: 1, capacity)

    def reader(size: int) -> Callable[[], Awaitable[bytes]]:
        async def read() -> bytes:
            return bytes(size)

        return read

    for key, size in enumerate(sizes):
        assert len(await cache.get_or_read(key, HERE, reader(size), len)) == size
    return cache


@quick
@given(st.integers(0, 32 * KIB), st.lists(st.integers(0, 8 * KIB), max_size=40))
def test_what_is_kept_never_weighs_more_than_the_capacity(capacity: int, sizes: list[int]) -> None:
    cache = asyncio.run(filled(capacity, sizes))
    kept = [value for key in range(len(sizes)) if (value := cache.get(key)) is not None]
    assert sum(map(len, kept)) <= capacity


def test_entries_without_bytes_are_bounded_too() -> None:
    cache = asyncio.run(filled(64 * KIB, [0] * 1000))
    assert 0 < sum(cache.get(key) is not None for key in range(1000)) <= 64


def test_the_least_recently_used_entry_goes_first() -> None:
    async def story() -> None:
        cache = await filled(32 * KIB, [8 * KIB] * 3)
        assert cache.get(0) is not None

        async def read() -> bytes:
            return bytes(8 * KIB)

        await cache.get_or_read(3, HERE, read, len)
        assert [key for key in range(4) if cache.get(key) is not None] == [0, 2, 3]

    asyncio.run(story())


def test_room_is_free_again_after_a_change() -> None:
    async def story() -> None:
        catalog = Catalog()
        cache: FreshCache[int, str] = FreshCache(catalog.generation, 8 * KIB)
        for _ in range(50):
            catalog.change("next")
            for key in range(3):
                await cache.get_or_read(key, HERE, catalog.read, len)
            assert all(cache.get(key) == "next" for key in range(3))

    asyncio.run(story())


def test_a_key_read_twice_at_once_is_counted_once() -> None:
    async def story() -> None:
        cache: FreshCache[int, bytes] = FreshCache(lambda _: 1, 16 * KIB)

        async def read() -> bytes:
            await asyncio.sleep(0)
            return bytes(4 * KIB)

        await asyncio.gather(*(cache.get_or_read(0, HERE, read, len) for _ in range(50)))
        await cache.get_or_read(1, HERE, read, len)
        assert cache.get(0) is not None
        assert cache.get(1) is not None

    asyncio.run(story())
