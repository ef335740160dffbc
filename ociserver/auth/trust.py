"""What tokens are judged by: the keys that sign them, and whom nothing older is taken from.

Both are the catalog's and held here, so that a token is judged without asking anybody. A change by
any replica arrives with the catalog's news; while those cannot be had, what was known last holds:
a token lives for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from ociserver.auth.records import ACCESS, AuditEvent, SigningKey
from ociserver.auth.tokens import ALGORITHM, Token, TokenInvalid, sign, verified
from ociserver.errors import LadingError, Unavailable
from ociserver.ports import Catalog, CatalogTx

log = logging.getLogger("lading.auth")

# A new key is shown before it signs: whoever checks tokens offline reads the keys now and then.
_ANNOUNCED_SECONDS = 600.0
# A token of a key that we do not know makes us look again, but not more often; where something was
# changed since, not more often than this.
_LOOK_AGAIN_SECONDS = 1.0
_NEWS_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds: of a token, of a key as the newest, of an upload that outlives its token."""

    token: float
    key: float
    upload: float

    @property
    def longest(self) -> float:
        """For how long after it was issued a token may still be taken."""
        return self.token + self.upload


class Trust:
    """One worker's knowledge of them."""

    def __init__(self, catalog: Catalog, *, service: str, lifetimes: Lifetimes) -> None:
        self._catalog = catalog
        self._service = service
        self._lifetimes = lifetimes
        self._generation: int | None = None
        self._looked_at = 0.0
        self._looked_for: int | None = None
        self._again: asyncio.Future[None] | None = None
        self._keys: dict[str, SigningKey] = {}
        self._private: dict[str, Any] = {}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        self._cut_off: Mapping[str, float] = {}
        # Grows when a key is gone: what was signed by it may still be remembered as good.
        self.epoch = 0

    def issue(self, token: Token) -> str:
        """Return the token, signed. Raises Unavailable where no key is known."""
        if not self._keys:
            raise Unavailable("no key to sign tokens with is known yet")
        now = time.time()
        newest_first = list(self._keys.values())
        # The oldest in any case: whoever made the only one may have a clock that is ahead of ours.
        key = next((each for each in newest_first if each.signs_from <= now), newest_first[-1])
        return sign(token, self._service, key.id, self._private[key.id])

    def judged(self, text: str, *, late: float = 0.0) -> Token:
        """Return what a good token says, though it ended up to `late` seconds ago.

        Raises TokenInvalid.
        """
        token = verified(text, self._service, self._public, now=time.time(), late=late)
        if not self.holds(token.principal.name, token.issued_at):
            raise TokenInvalid("the token was revoked")
        return token

    def holds(self, principal: str, issued_at: float) -> bool:
        """Tell whether the principal may still use what was issued then."""
        return issued_at >= self._cut_off.get(principal, 0.0)

    def key_set(self) -> dict[str, object]:
        """Return the public keys (RFC 7517)."""
        return {
            "keys": [
                ECAlgorithm.to_jwk(key, as_dict=True)
                | {"kid": key_id, "use": "sig", "alg": ALGORITHM}
                for key_id, key in self._public.items()
            ]
        }

    async def look(self) -> None:
        """Learn what changed, if anything did. Raises Unavailable."""
        if self._catalog.generation(ACCESS) != self._generation:
            await self._learn()

    async def look_again(self) -> None:
        """Learn what there is, though no news came; for all who ask in the same second, once.

        Anybody can send a token of a key that we do not know: a flood of them must not become one
        of reads, least of all while the catalog is slow to answer. What changed since is looked
        for all the same: it may be that key. Raises Unavailable.
        """
        if self._again is None or self._again.done():
            generation, now = self._catalog.generation(ACCESS), time.monotonic()
            is_news = generation not in (self._looked_for, self._generation)
            pause = _NEWS_SECONDS if is_news else _LOOK_AGAIN_SECONDS
            wait = max(self._looked_at + pause - now, 0.0)
            if self._again is None or is_news or not wait:
                self._looked_at, self._looked_for = now + wait, generation
                self._again = asyncio.ensure_future(self._learn_after(wait))
        await asyncio.shield(self._again)

    async def _learn_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._learn()

    async def _learn(self) -> None:
        generation = self._catalog.generation(ACCESS)
        since = time.time() - self._lifetimes.longest
        keys, cut_off = await self._catalog.read(lambda tx: (tx.signing_keys(), tx.cut_off(since)))
        self._generation = generation
        self._cut_off = cut_off
        if [key.id for key in keys] != list(self._keys):
            self._hold(keys)

    async def keep_keys(self) -> None:
        """Make the next key when it is time, drop those that nothing can be signed by any more.

        Any number of workers may do so at once. Raises Unavailable.
        """
        now = time.time()
        keys = list(self._keys.values())
        if not keys or keys[0].signs_from + self._lifetimes.key < now:
            await rotate(self._catalog, now + (_ANNOUNCED_SECONDS if keys else 0.0))
        # A key signs until the next one does.
        ended = [
            key.id
            for key, following in zip(keys[1:], keys, strict=False)
            if following.signs_from + self._lifetimes.longest < now
        ]
        if ended:
            await self._catalog.write(lambda tx: tx.drop_signing_keys(ended))
        await self._learn()

    def _hold(self, keys: Sequence[SigningKey]) -> None:
        if self._keys.keys() - {key.id for key in keys}:
            self.epoch += 1
        self._private = {key.id: load_pem_private_key(key.private, None) for key in keys}
        self._public = {key_id: key.public_key() for key_id, key in self._private.items()}
        self._keys = {key.id: key for key in keys}


async def rotate(catalog: Catalog, signs_from: float, actor: str = "lading") -> bool:
    """Make a new key; False where another worker has just made one. Raises Unavailable."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = SigningKey(id=secrets.token_hex(8), private=pem, signs_from=signs_from)
    event = AuditEvent(
        at=time.time(), actor=actor, action="rotate-key", subject=key.id, outcome="done"
    )
    known = await catalog.read(lambda tx: tx.signing_keys())
    newest = known[0].id if known else None

    def work(tx: CatalogTx) -> bool:
        added = tx.add_signing_key(key, newest)
        if added:
            tx.record([event])
        return added

    return await catalog.write(work, in_turn=True)


async def revoke(catalog: Catalog, keys: Sequence[str], actor: str) -> None:
    """Have nothing taken any more that these keys signed. Raises Unavailable."""
    now = time.time()
    events = [
        AuditEvent(at=now, actor=actor, action="revoke-key", subject=key, outcome="done")
        for key in keys
    ]

    def work(tx: CatalogTx) -> None:
        tx.drop_signing_keys(keys)
        tx.record(events)

    await catalog.write(work, in_turn=True)


async def looking(trust: Trust) -> None:
    """Look for news once; an outage is no reason to forget what is known."""
    try:
        await trust.look()
    except LadingError as error:
        log.debug("no news of keys", extra={"fields": {"reason": error.message}})
