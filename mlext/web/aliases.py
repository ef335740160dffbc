"""Aliases: the handlers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlext import aliases, documents, versions
from mlext.acts import Act, act
from mlext.aliases import Move, parse_alias
from mlext.documents import document
from mlext.errors import AliasUnknown, DocumentInvalid, KeyReused
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Alias, AliasMove, Approval, rfc3339
from mlext.web import paging
from mlext.web.answers import Holding, held, rendered, shown
from mlext.web.asked import model_of, version_number, version_of
from ociserver.auth.rules import Action
from ociserver.errors import Unavailable
from ociserver.extension import House, author_of
from ociserver.fresh import FreshCache
from ociserver.refs import RepositoryName, Tag
from ociserver.rendered import Rendered

_MOVE = frozenset(("version", "reason", "expected_version"))
_MOVES = frozenset(("moves", "reason"))
_ONE_OF_MOVES = frozenset(("alias", "version", "expected_version"))
_APPROVAL = frozenset(("alias", "comment"))
_MOST_MOVES = 50
# No alias moves more often, and no number of a move has more digits.
_MOVES_EVER = 10**9
_MOVE_DIGITS = 9
_KEY_MAX = 200
_STALE = (b"warning", b'299 - "stale: the catalog is out of reach"')


class Resolved(Rendered):
    """Where an alias points, as it is answered."""

    __slots__ = ("cache_control",)

    def __init__(self, found: Alias, cache_control: str) -> None:
        super().__init__(
            endpoint="alias",
            repository=found.model,
            etag=found.etag,
            validators=[
                (b"cache-control", cache_control.encode()),
                (b"etag", found.etag.encode()),
            ],
            media_type="application/json",
            body=json.dumps(found.shown(), ensure_ascii=False).encode(),
        )
        self.cache_control = cache_control

    def weight(self) -> int:
        """Return the bytes that it takes in a cache, without what every entry takes."""
        return len(self.body)


class AliasDoors:
    """Handlers of aliases and approvals."""

    def __init__(
        self,
        house: House,
        catalog: ModelsCatalog,
        holding: Holding,
        resolved: FreshCache[bytes, Resolved],
    ) -> None:
        self._house = house
        self._catalog = catalog
        self._holding = holding
        self._resolved = resolved

    async def aliases(self, request: Request) -> Response:
        """List the aliases of a model."""
        name, page = model_of(request), paging.asked(request)

        def read(tx: ModelsTx) -> Sequence[Alias]:
            versions.the_model(tx, name)
            return tx.aliases(name, page.after or "", page.more)

        found = await self._catalog.read(read)
        return paging.answer(page, "aliases", found, Alias.shown, lambda each: each.name)

    async def alias(self, request: Request) -> Response:
        """Resolve an alias, now or as of a past moment."""
        name, alias = _place(request)
        if (at := request.query_params.get("at")) is not None:
            return await self._as_of(request, at)

        async def read() -> Resolved:
            found = await self._catalog.read(lambda tx: aliases.the_alias(tx, name, alias))
            return Resolved(found, self._holding.moment(name))

        target, warning = request.scope["raw_path"], []
        if (known := self._resolved.stale(target)) is not None and not self._holds(known):
            self._resolved.drop(target)
        try:
            found = await self._resolved.get_or_read(target, name, read, Resolved.weight)
        except Unavailable:
            if (kept := self._resolved.stale(target)) is None:
                raise
            found, warning = kept, [_STALE]
        return rendered(request, found, warning)

    def at_hand(self, target: bytes) -> Rendered | None:
        """Return the answer to a GET or HEAD of exactly this target, if it is at hand and holds."""
        try:
            found = self._resolved.get(target)
        except Unavailable:
            return None  # whether it still holds cannot be told: the long way says so
        return found if found is not None and self._holds(found) else None

    def _holds(self, found: Resolved) -> bool:
        """Tell whether who may keep it is still who might when it was rendered."""
        return self._holding.moment(found.repository) == found.cache_control

    async def _as_of(self, request: Request, at: str) -> Response:
        name, alias = _place(request)
        moment = documents.parse_since(at, "at")
        found = await self._catalog.read(lambda tx: tx.alias_at(name, alias, moment))
        if found is None:
            raise AliasUnknown(f"{name} had no alias {alias} at {at}")
        said = {
            "alias": alias,
            "version": found.number,
            "artifact_digest": found.digest,
            "updated_by": found.by,
            "updated_at": found.shown()["at"],
            "reason": found.reason,
            "at": rfc3339(moment),
        }
        body = json.dumps(said, ensure_ascii=False).encode()
        return held(request, body, self._holding.moment(name), found.etag)

    async def move(self, request: Request) -> Response:
        """Move one alias."""
        name, alias = _place(request)
        body = await self._house.body(request)
        found = document(body, _MOVE)
        asked = _on_condition(request, _move(alias, found))
        reason = documents.text(found, "reason")
        moved = await self._move(request, name, [asked], reason, body)
        etag = moved[0]["etag"]
        return shown(moved[0]["alias"], ETag=str(etag))

    async def move_several(self, request: Request) -> Response:
        """Move several aliases of a model, all or none."""
        name = model_of(request)
        body = await self._house.body(request)
        found = document(body, _MOVES)
        entries = found.get("moves")
        if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_MOVES:
            raise DocumentInvalid(f"moves is a list of 1 to {_MOST_MOVES} moves")
        asked = []
        for each in entries:
            if not isinstance(each, dict):
                raise DocumentInvalid("a move is a JSON object")
            documents.refuse_unknown(each, _ONE_OF_MOVES, "a move")
            asked.append(_move(parse_alias(documents.text(each, "alias")), each))
        if len({each.alias for each in asked}) < len(asked):
            raise DocumentInvalid("an alias is moved once at a time")
        moved = await self._move(request, name, asked, documents.text(found, "reason"), body)
        return shown({"aliases": [each["alias"] for each in moved]})

    async def _move(
        self,
        request: Request,
        name: RepositoryName,
        asked: Sequence[Move],
        reason: str,
        body: bytes,
    ) -> list[dict[str, Any]]:
        by, key = author_of(request), _idempotency_key(request)
        conditions = [request.headers.getlist(each) for each in ("if-match", "if-none-match")]
        marks = f"{request.method} {request.url.path} {conditions}\n"
        mark = hashlib.sha256(marks.encode() + body).hexdigest()

        def work(doing: Act) -> list[dict[str, Any]]:
            tx = doing.tx
            if key and (kept := tx.kept_answer(by.name, key)):
                if kept[0] != mark:
                    raise KeyReused("this Idempotency-Key came before, with another request")
                answered: list[dict[str, Any]] = json.loads(kept[1])
                return answered
            moved = aliases.move(doing, name, asked, reason)
            answer = [{"alias": each.shown(), "etag": each.etag} for each in moved]
            if key:
                tx.keep_answer(by.name, key, mark, json.dumps(answer).encode(), doing.at)
            return answer

        return await act(self._catalog, by, work)

    async def history(self, request: Request) -> Response:
        """List the moves of an alias, the latest first."""
        name, alias = _place(request)
        page = paging.asked(request)
        before = _MOVES_EVER if page.after is None else paging.number(page.after, _MOVE_DIGITS)

        def read(tx: ModelsTx) -> Sequence[AliasMove]:
            aliases.the_alias(tx, name, alias)
            return tx.alias_moves(name, alias, before, page.more)

        found = await self._catalog.read(read)
        return paging.answer(page, "moves", found, AliasMove.shown, lambda each: each.move)

    async def check(self, request: Request) -> Response:
        """Say of every condition whether a version meets it, and move nothing."""
        name, alias = _place(request)
        if "version" not in request.query_params:
            raise DocumentInvalid("version=N is the number of the version to check")
        number = version_number(request.query_params["version"])
        by = author_of(request)

        def read(tx: ModelsTx) -> dict[str, object]:
            version = aliases.the_pulled(tx, name, number)
            verdict = aliases.verdict_on(tx, version, alias, by, tx.now())
            return {
                "model": name,
                "alias": alias,
                "version": number,
                "may_promote": by.may(Action.PROMOTE, name, alias),
                **verdict.to_json(),
            }

        return shown(await self._catalog.read(read))

    async def approvals(self, request: Request) -> Response:
        """List who approves of a version, by alias and name."""
        name, number = model_of(request), version_of(request)
        page = paging.asked(request)
        alias, slash, by = (page.after or "/").partition("/")
        if not slash:
            raise paging.damaged()

        def read(tx: ModelsTx) -> Sequence[Approval]:
            versions.the_version(tx, name, number)
            return tx.approvals_after(name, number, (alias, by), page.more)

        found = await self._catalog.read(read)
        return paging.answer(
            page, "approvals", found, Approval.shown, lambda each: f"{each.alias}/{each.by}"
        )

    async def approve(self, request: Request) -> Response:
        """Approve of a version under an alias."""
        name = model_of(request)
        number = version_of(request)
        found = document(await self._house.body(request), _APPROVAL)
        alias = parse_alias(documents.text(found, "alias"))
        comment = documents.text(found, "comment")
        given = await act(
            self._catalog,
            author_of(request),
            lambda doing: aliases.approve(doing, name, number, alias, comment),
        )
        return shown(given.shown(), 201)


def _place(request: Request) -> tuple[RepositoryName, Tag]:
    return model_of(request), parse_alias(request.path_params["alias"])


def _move(alias: Tag, found: Mapping[str, Any]) -> Move:
    number = documents.whole(found, "version")
    if not number:
        raise DocumentInvalid("version is the number of the version to move it to")
    expected = documents.whole(found, "expected_version")
    if expected is None and "expected_version" in found:
        raise DocumentInvalid("expected_version is null: 0 says that the alias is not there yet")
    return Move(alias=alias, number=number, expected=expected)


def _on_condition(request: Request, asked: Move) -> Move:
    """Return the move with what the conditions of its request expect (RFC 9110, 13.1)."""
    if none := request.headers.getlist("if-none-match"):
        if none != ["*"] or asked.expected:
            raise DocumentInvalid("If-None-Match of a move is *: of an alias that is not there yet")
        asked = replace(asked, expected=0)
    if matches := request.headers.getlist("if-match"):
        # No ETag of an alias has a comma in it.
        asked = replace(asked, etags=[each.strip() for each in ",".join(matches).split(",")])
    return asked


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not key.isprintable() or not key.isascii() or not 0 < len(key) <= _KEY_MAX:
        raise DocumentInvalid(f"Idempotency-Key is 1 to {_KEY_MAX} printable characters")
    return key
