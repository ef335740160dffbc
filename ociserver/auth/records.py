"""What the catalog keeps of access: principals and their secrets, keys, refresh tokens, the audit.

`ports.CatalogTx` has these rows; like every port, the docstrings are the contract that
`tests/contracts/` runs against both databases. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ociserver.refs import RepositoryName

Kind = Literal["user", "robot"]
Outcome = Literal["done", "denied", "failed"]

# What `ports.Catalog.generation` is asked with to learn of changes to principals and keys: no
# repository can have this name.
ACCESS = RepositoryName("/access")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrincipal:
    """A person or a robot. `name` is what they log in with, alone among both kinds.

    Nothing that was issued before `tokens_from` is taken from them any more. Times are seconds
    since the epoch.
    """

    name: str
    kind: Kind
    groups: frozenset[str] = frozenset()
    disabled_at: float | None = None
    tokens_from: float = 0.0

    @property
    def full_name(self) -> str:
        """What rules and the audit call it: `user:ann`."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A secret's hash: of a password, slow (argon2, bcrypt); of a robot's key, sha256."""

    id: str
    principal: str
    hash: str = field(repr=False)
    ends_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens from `signs_from` until the next one does.

    `private` is PKCS #8, PEM; it is in no representation, as these end up in logs.
    """

    id: str
    private: bytes = field(repr=False)
    signs_from: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A refresh token, by the sha256 of it in hex. `family` is the login that it comes from."""

    hash: str
    family: str
    principal: str
    issued_at: float
    ends_at: float
    replaced_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that was done, or refused, by whom. `at` is in seconds since the epoch.

    `number` is the catalog's: 1, 2, 3. What has none yet is rounded to the microsecond, as it will
    be shown: who asks for what was since then finds it.
    """

    at: float
    actor: str
    action: str
    subject: str
    outcome: Outcome
    detail: Mapping[str, object] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        if not self.number:
            object.__setattr__(self, "at", round(self.at, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLink:
    """An event in its place: its hash covers it and `previous`, the hash of the one before.

    Both are sha256, in hex (`chain.py`).
    """

    event: AuditEvent
    previous: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuestion:
    """Which events are looked for: those of which all that is said here holds.

    `since` and `until` are seconds since the epoch, the first included and the second not.
    """

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: float = -math.inf
    until: float = math.inf


class PrincipalRows(Protocol):
    """People and robots, and what they prove themselves with. Changes are news of `ACCESS`."""

    def add_principal(self, principal: StoredPrincipal, now: float) -> bool:
        """Record it; False where its name is taken, by either kind."""

    def principal(self, name: str) -> StoredPrincipal | None:
        """Return the principal of this name."""

    def principals(self, after: str, limit: int) -> Sequence[StoredPrincipal]:
        """Return principals by name, after the one."""

    def change_principal(self, principal: StoredPrincipal) -> bool:
        """Record its groups, `disabled_at` and `tokens_from`; False where there is none."""

    def cut_off(self, since: float) -> Mapping[str, float]:
        """Return whom tokens are refused that were issued before a time, by full name.

        Those disabled, with an infinite time, and those whose `tokens_from` is at `since` or later.
        """

    def add_credential(self, credential: Credential) -> None:
        """Record it, in place of an earlier one of the same id."""

    def credentials(self, principal: str, now: float) -> Sequence[Credential]:
        """Return those of this name that have not ended."""

    def end_credentials(self, principal: str, at: float) -> None:
        """Let those of this name that would last longer end then."""


class TokenRows(Protocol):
    """Keys that sign tokens, and refresh tokens. Keys are news of `ACCESS`."""

    def signing_keys(self) -> Sequence[SigningKey]:
        """Return all, the newest first: the one that was added last."""

    def add_signing_key(self, key: SigningKey, newest: str | None) -> bool:
        """Record it; False unless `newest` is still the id of the newest (None: there is none)."""

    def drop_signing_keys(self, ids: Sequence[str]) -> None:
        """Forget these: nothing that they signed is taken any more."""

    def add_refresh_token(self, token: RefreshToken) -> None:
        """Record it."""

    def refresh_token(self, token_hash: str) -> RefreshToken | None:
        """Return the refresh token of this hash."""

    def replace_refresh_token(self, token_hash: str, now: float) -> bool:
        """Record that another was given for it; False where that, or the end of it, came before."""

    def end_refresh_tokens(self, principal: str, at: float) -> None:
        """Let those of the principal of this full name that would last longer end then."""

    def drop_refresh_family(self, family: str) -> None:
        """Forget all that came of one login."""

    def drop_refresh_tokens_ended(self, before: float) -> None:
        """Forget what ended before that."""


class AuditRows(Protocol):
    """The audit: nothing changes or takes away what was recorded."""

    def record(self, events: Sequence[AuditEvent]) -> None:
        """Append the events to the chain, best as the last thing that a transaction does.

        Each has the number after the last and the hash that `chain.link` gives, so who reads on
        from the last one read misses none. A write that records does so `in_turn`. Numbers in a
        detail that JSON has no form for (NaN) are kept as text.
        """

    def events(self, after: int, limit: int) -> Sequence[AuditEvent]:
        """Return events by number, after the one."""

    def trail(self, after: int, limit: int) -> Sequence[AuditLink]:
        """Return events by number, after the one, each with its hash as it is kept: so many, and
        with 4 MiB of details where that is more than one.

        `previous` is the hash of the event that stands before it, whatever number that has.
        """

    def latest(
        self, asked: AuditQuestion, before: AuditEvent | None, limit: int
    ) -> tuple[Sequence[AuditEvent], bool]:
        """Return events that are asked for by time, the latest first, before that one: so many,
        bounded as those of `trail`; and whether there are more.
        """
