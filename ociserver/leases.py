"""Leases: who alone may do something for now, among all workers of all replicas.

A lease is kept in the catalog and renewed while it is held; an owner that dies loses it after a few
seconds. It spares work done twice. It is no proof against it (a process may be stopped and go on
later): what must not happen twice is decided by a conditional write of the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ociserver.errors import LadingError, LeaseTaken
from ociserver.ports import Catalog

log = logging.getLogger("lading.leases")

# How long a dead owner's lease is respected, and how often a live one renews it.
LEASE_SECONDS = 9.0
_RENEW_SECONDS = 3.0
_POLL_SECONDS = 0.1


class Leases:
    """This process's way to take leases."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @asynccontextmanager
    async def hold(self, name: str, patience: float = 0.0) -> AsyncIterator[None]:
        """Hold the lease until the block is left. Raises LeaseTaken after `patience` seconds."""
        owner = uuid.uuid4().hex
        deadline = time.monotonic() + patience
        try:
            while not await self._take(name, owner):
                if time.monotonic() >= deadline:
                    raise LeaseTaken(f"somebody else holds {name}")
                await asyncio.sleep(_POLL_SECONDS)
            renewing = asyncio.create_task(self._renew(name, owner))
            try:
                yield
            finally:
                renewing.cancel()
                # A renewal under way would bring back what is given back below.
                await asyncio.wait([renewing])
        finally:
            with suppress(LadingError):
                await self._catalog.write(lambda tx: tx.drop_lease(name, owner))

    async def free(self, name: str, patience: float) -> None:
        """Return once nobody holds the lease, or after `patience` seconds."""
        deadline = time.monotonic() + patience
        while await self._catalog.read(lambda tx: tx.lease_is_held(name, time.time())):
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _take(self, name: str, owner: str) -> bool:
        now = time.time()
        taking = asyncio.ensure_future(
            self._catalog.write(lambda tx: tx.take_lease(name, owner, now, now + LEASE_SECONDS))
        )
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # It may still be taken: only then can it be given back.
            await asyncio.wait([taking])
            raise

    async def _renew(self, name: str, owner: str) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                if not await self._take(name, owner):
                    log.warning("a lease was lost", extra={"fields": {"lease": name}})
            except LadingError:
                continue  # the catalog may be back, or have room, before the lease ends
