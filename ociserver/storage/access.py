"""People, robots and their secrets; keys that sign tokens, and refresh tokens. In SQL.

`records.PrincipalRows`, `records.TokenRows`. What a worker may keep of these is news of `ACCESS`.
Something that ends at a time has ended at that time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update

from ociserver.auth.records import ACCESS, Credential, RefreshToken, SigningKey, StoredPrincipal
from ociserver.storage import schema
from ociserver.storage.schema import credential, refresh_token, signing_key
from ociserver.storage.transaction import SqlTransaction

_stored = select(
    schema.principal.c.name,
    schema.principal.c.kind,
    schema.principal.c.groups,
    schema.principal.c.disabled_at,
    schema.principal.c.tokens_from,
)
_credentials = select(
    credential.c.id, credential.c.principal, credential.c.hash, credential.c.ends_at
).order_by(credential.c.id)
_keys = select(signing_key.c.id, signing_key.c.private, signing_key.c.signs_from).order_by(
    signing_key.c.number.desc()
)
_newest_key = select(signing_key.c.id).order_by(signing_key.c.number.desc()).limit(1)
_refresh = select(
    refresh_token.c.hash,
    refresh_token.c.family,
    refresh_token.c.principal,
    refresh_token.c.issued_at,
    refresh_token.c.ends_at,
    refresh_token.c.replaced_at,
)


class _AccessSql(SqlTransaction):
    def _is_news(self, rows: int) -> bool:
        """Have the workers told, where rows were changed; tell whether any were."""
        if rows > 0:
            self.changed.add(ACCESS)
        return rows > 0


class PrincipalSql(_AccessSql):
    """`records.PrincipalRows`."""

    def add_principal(self, principal: StoredPrincipal, now: float) -> bool:
        values = {
            "name": principal.name,
            "kind": principal.kind,
            "groups": _as_text(principal.groups),
            "created_at": now,
            "disabled_at": principal.disabled_at,
            "tokens_from": principal.tokens_from,
        }
        return self._is_news(self._insert_new(schema.principal, values))

    def principal(self, name: str) -> StoredPrincipal | None:
        found = _stored.where(schema.principal.c.name == name)
        row = self._db.execute(found).one_or_none()
        return _as_principal(row) if row else None

    def principals(self, after: str, limit: int) -> Sequence[StoredPrincipal]:
        page = _stored.where(schema.principal.c.name > after).order_by(schema.principal.c.name)
        return [_as_principal(row) for row in self._db.execute(page.limit(limit))]

    def change_principal(self, principal: StoredPrincipal) -> bool:
        # The kind as well: a robot is not the person who has its name.
        changed = (
            update(schema.principal)
            .where(schema.principal.c.name == principal.name)
            .where(schema.principal.c.kind == principal.kind)
            .values(
                groups=_as_text(principal.groups),
                disabled_at=principal.disabled_at,
                tokens_from=principal.tokens_from,
            )
        )
        return self._is_news(self._db.execute(changed).rowcount)

    def cut_off(self, since: float) -> Mapping[str, float]:
        # It stands for IS NOT NULL, for which SQLite would read the whole table: there, workers
        # ask for this after every write.
        is_disabled = schema.principal.c.disabled_at >= -math.inf
        cut = _stored.where(or_(is_disabled, schema.principal.c.tokens_from >= since))
        found = [_as_principal(row) for row in self._db.execute(cut)]
        return {
            each.full_name: each.tokens_from if each.disabled_at is None else math.inf
            for each in found
        }

    def add_credential(self, credential: Credential) -> None:
        values = {
            "id": credential.id,
            "principal": credential.principal,
            "hash": credential.hash,
            "ends_at": credential.ends_at,
        }
        self._is_news(self._db.execute(self._inserts.credential, values).rowcount)

    def credentials(self, principal: str, now: float) -> Sequence[Credential]:
        lasting = or_(credential.c.ends_at.is_(None), credential.c.ends_at > now)
        found = _credentials.where(credential.c.principal == principal, lasting)
        return [
            Credential(id=row.id, principal=row.principal, hash=row.hash, ends_at=row.ends_at)
            for row in self._db.execute(found)
        ]

    def end_credentials(self, principal: str, at: float) -> None:
        longer = or_(credential.c.ends_at.is_(None), credential.c.ends_at > at)
        ended = update(credential).where(credential.c.principal == principal, longer)
        self._is_news(self._db.execute(ended.values(ends_at=at)).rowcount)


class TokenSql(_AccessSql):
    """`records.TokenRows`."""

    def signing_keys(self) -> Sequence[SigningKey]:
        return [
            SigningKey(id=row.id, private=row.private, signs_from=row.signs_from)
            for row in self._db.execute(_keys)
        ]

    def add_signing_key(self, key: SigningKey, newest: str | None) -> bool:
        # To look and then to insert is safe, as writes run as if alone: of two replicas that find
        # the same newest, PostgreSQL undoes one, which runs again and finds the other's.
        if self._db.execute(_newest_key).scalar_one_or_none() != newest:
            return False
        values = {"id": key.id, "private": key.private, "signs_from": key.signs_from}
        return self._is_news(self._db.execute(insert(signing_key), values).rowcount)

    def drop_signing_keys(self, ids: Sequence[str]) -> None:
        dropped = delete(signing_key).where(signing_key.c.id.in_(ids))
        self._is_news(self._db.execute(dropped).rowcount)

    def add_refresh_token(self, token: RefreshToken) -> None:
        self._db.execute(
            insert(refresh_token),
            {
                "hash": token.hash,
                "family": token.family,
                "principal": token.principal,
                "issued_at": token.issued_at,
                "ends_at": token.ends_at,
                "replaced_at": token.replaced_at,
            },
        )

    def refresh_token(self, token_hash: str) -> RefreshToken | None:
        found = _refresh.where(refresh_token.c.hash == token_hash)
        row = self._db.execute(found).one_or_none()
        if row is None:
            return None
        return RefreshToken(
            hash=row.hash,
            family=row.family,
            principal=row.principal,
            issued_at=row.issued_at,
            ends_at=row.ends_at,
            replaced_at=row.replaced_at,
        )

    def replace_refresh_token(self, token_hash: str, now: float) -> bool:
        replaced = (
            update(refresh_token)
            .where(refresh_token.c.hash == token_hash)
            .where(refresh_token.c.replaced_at.is_(None), refresh_token.c.ends_at > now)
            .values(replaced_at=now)
        )
        return self._db.execute(replaced).rowcount > 0

    def end_refresh_tokens(self, principal: str, at: float) -> None:
        longer = refresh_token.c.ends_at > at
        ended = update(refresh_token).where(refresh_token.c.principal == principal, longer)
        self._db.execute(ended.values(ends_at=at))

    def drop_refresh_family(self, family: str) -> None:
        self._db.execute(delete(refresh_token).where(refresh_token.c.family == family))

    def drop_refresh_tokens_ended(self, before: float) -> None:
        self._db.execute(delete(refresh_token).where(refresh_token.c.ends_at < before))


def _as_text(groups: frozenset[str]) -> str:
    return json.dumps(sorted(groups))


def _as_principal(row: Row[*tuple[Any, ...]]) -> StoredPrincipal:
    return StoredPrincipal(
        name=row.name,
        kind=row.kind,
        groups=frozenset(json.loads(row.groups)),
        disabled_at=row.disabled_at,
        tokens_from=row.tokens_from,
    )
