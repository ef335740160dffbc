"""The guard: before anything is looked up, it knows who asks, and whether they may.

It decides from the request and the rules alone, so that what is forbidden and what does not exist
look the same, and take as long, to one who may not know.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Scope

from ociserver.auth.audit import Audit
from ociserver.auth.callers import Caller, Callers
from ociserver.auth.principals import ANYONE
from ociserver.auth.records import AuditEvent
from ociserver.auth.rules import OPEN, Action
from ociserver.auth.sites import site
from ociserver.auth.tokens import ANYWHERE, MOUNT
from ociserver.errors import Denied, NameInvalid, NameUnknown, Unauthenticated
from ociserver.refs import NAME_MAX, parse_name, shortened
from ociserver.web.forwarded import Network, origin, sender
from ociserver.web.limits import Limits
from ociserver.web.protocol import RequestHead

TOKEN_PATH = "/token"  # noqa: S105 - where one is had
# What a client is told to ask a token for. More than the request at hand needs: oras-py asks once
# and pushes with the token of its first HEAD; who may not push gets a token to pull by it.
_PULL_PUSH = "pull,push"
_DELETE = "pull,push,delete"
_UNQUOTABLE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
# Whose an upload is, by repository and id.
Owner = Callable[[str, str], Awaitable[str | None]]

EVERYONE = Caller(principal=ANYONE, rights=OPEN.of(ANYONE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Realm:
    """What a challenge says: by which scheme, for which service, and where tokens are had.

    `address` is ours as clients know it, None where a request tells.
    """

    scheme: str
    service: str
    address: str | None
    proxies: Sequence[Network]

    def origin(self, scope: Scope) -> str:
        """Return our address as the client has it, without a path."""
        return (self.address or origin(scope, self.proxies)).rstrip("/")

    def challenge(self, error: Unauthenticated, scope: Scope) -> bytes:
        """Return the value of WWW-Authenticate (RFC 9110 section 11.6.1, RFC 6750 section 3).

        Every value is quoted: oras-py reads no other.
        """
        if self.scheme == "basic" or error.basic or scope["path"] == TOKEN_PATH:
            return f'Basic realm="{self.service}"'.encode("latin-1")
        address = self.origin(scope)
        fields = {"realm": f"{address}{TOKEN_PATH}", "service": self.service}
        if error.scope:
            fields["scope"] = error.scope
        if error.reason:
            fields["error"] = error.reason
        text = ",".join(f'{key}="{_UNQUOTABLE.sub("", value)}"' for key, value in fields.items())
        return f"Bearer {text}".encode("latin-1")


class Guard:
    """Stands before every route. Without callers the registry is open to everyone."""

    def __init__(
        self,
        callers: Callers | None,
        audit: Audit,
        *,
        realm: Realm,
        owner: Owner,
        limits: Limits,
    ) -> None:
        self._callers = callers
        self._audit = audit
        self._owner = owner
        self._limits = limits
        self.realm = realm

    def may_pull_hot(self, head: RequestHead, repository: str) -> bool:
        """Tell whether it is known, without a wait, that this request may pull from there."""
        if self._limits.count_requests:
            return False
        if self._callers is None:
            return True
        caller = self._callers.known(head.authorization())
        return caller is not None and caller.may(Action.PULL, repository)

    def count(self, scope: Scope) -> str:
        """Count a request of its sender's address, and return that. Raises TooManyRequests."""
        address = sender(scope, self.realm.proxies)
        self._limits.count(site(address), time.monotonic())
        return address

    def uploading(self, scope: Scope) -> AbstractContextManager[None]:
        """Count an upload of whoever was admitted. Raises TooManyRequests."""
        caller: Caller = scope["lading.caller"]
        name = caller.principal.name
        anonymous = caller.principal.is_anonymous
        return self._limits.upload(site(sender(scope, self.realm.proxies)) if anonymous else name)

    async def _caller(self, scope: Scope, *, may_be_late: bool) -> Caller:
        address = self.count(scope)
        if self._callers is None:
            return EVERYONE
        caller = await self._callers.of(authorization(scope), address, may_be_late=may_be_late)
        if not caller.principal.is_anonymous:
            self._limits.count(caller.principal.name, time.monotonic())
        return caller

    async def admit(self, scope: Scope, action: Action | None) -> Caller:
        """Return who asks, if they may do this in the repository that the path names, or everywhere
        if it names none.

        Without an action, if they say who they are: then a client learns that it can log in.
        Raises Unauthenticated, NameInvalid, NameUnknown, Denied, TooManyRequests, Unavailable.
        """
        parameters = scope["path_params"]
        repository, upload = parameters.get("name", ""), parameters.get("upload")
        try:
            caller = await self._caller(scope, may_be_late=upload is not None)
            if caller.is_late:
                await self._admit_late(caller, repository, upload)
        except Unauthenticated as error:
            if action is not None and repository:
                error.scope = _scope(action, repository, _source(scope))
            raise
        if action is not None and "name" not in parameters:
            self._require_everywhere(caller, action, scope)
        elif action is not None:
            # Rules are asked about names alone: text of any length is slow to match and to keep.
            repository = parse_name(repository)
            self._require(caller, action, repository, scope)
            self._require_source(caller, repository, scope)
        elif self._callers is not None and caller.says_nothing:
            raise Unauthenticated("say who you are")
        return caller

    def _require(self, caller: Caller, action: Action, repository: str, scope: Scope) -> None:
        if caller.may(action, repository):
            return
        if caller.rights.allow(action, repository):
            raise Unauthenticated(
                "the token is not for this",
                scope=_scope(action, repository, _source(scope)),
                reason="insufficient_scope",
            )
        if caller.says_nothing:
            # Nearly every client's first request: it is asked who it is, and refused nothing yet.
            raise Unauthenticated(
                "say who you are", scope=_scope(action, repository, _source(scope))
            )
        self._limits.refused("denied")
        self._note(caller, action, repository, scope)
        shown = shortened(repository)
        if caller.rights.allow(Action.PULL, repository) and not caller.principal.is_anonymous:
            raise Denied(f"no rule lets {caller.principal.name} {action} in {shown}")
        if caller.principal.is_anonymous:
            raise Unauthenticated(
                "say who you are", scope=_scope(action, repository, _source(scope))
            )
        raise NameUnknown(f"there is no repository {shown} that {caller.principal.name} may see")

    def _require_everywhere(self, caller: Caller, action: Action, scope: Scope) -> None:
        # A token is for repositories, and has nothing to say beyond them.
        if caller.access is None and caller.rights.allow_everywhere(action):
            return
        if caller.says_nothing or caller.access is not None:
            raise Unauthenticated(
                "say who you are by Basic: a token is for repositories alone", basic=True
            )
        self._limits.refused("denied")
        self._note(caller, action, "**", scope)
        raise Denied(f'no rule lets {caller.principal.name} {action} on "**"')

    def _require_source(self, caller: Caller, repository: str, scope: Scope) -> None:
        # Whether the blob is there is not looked at. Where no rule lets them pull, or the mount
        # names no source, it ends as an upload (202) and not here.
        source = _source(scope)
        if source in (None, ANYWHERE) or caller.may_mount_from(source):
            return
        if caller.rights.allow(Action.PULL, source):
            raise Unauthenticated(
                "the token is not for the repository to mount from",
                scope=_scope(Action.PUSH, repository, source),
                reason="insufficient_scope",
            )
        self._limits.refused("denied")
        self._note(caller, Action.PULL, source, scope)

    async def _admit_late(self, caller: Caller, repository: str, upload: str | None) -> None:
        # A token that ended while its upload went on: the upload is good for the rest of itself.
        owner = await self._owner(repository, upload) if upload else None
        if owner != caller.principal.name:
            raise Unauthenticated("the token has expired", reason="invalid_token")

    def note_denied(self, scope: Scope, action: str, error: Denied) -> None:
        """Have it recorded that whoever was let in at the door was refused behind it: what the
        rules say of an alias, and its gate, is known only there.
        """
        self._limits.refused("denied")
        named = scope["path_params"]
        subject = named.get("name") or named.get("run_id") or scope["path"]
        said: dict[str, object] = {"reason": error.message}
        if error.detail is not None:
            said["verdict"] = error.detail
        self._note(scope["lading.caller"], action, subject, scope, said)

    def _note(
        self,
        caller: Caller,
        action: str,
        repository: str,
        scope: Scope,
        said: Mapping[str, object] | None = None,
    ) -> None:
        address = sender(scope, self.realm.proxies)
        event = AuditEvent(
            at=time.time(),
            actor=caller.principal.name,
            action=action,
            # Whole where it is a name: events are looked for by it.
            subject=shortened(repository, NAME_MAX),
            outcome="denied",
            detail={
                "request_id": scope.get("lading.request_id", ""),
                "address": address,
                "method": scope["method"],
                **(said or {}),
            },
        )
        self._audit.refused(event, address)


def caller_of(request: Request) -> Caller:
    """Return who was admitted."""
    caller: Caller = request.scope["lading.caller"]
    return caller


def authorization(scope: Scope) -> bytes | None:
    """Return the Authorization field, None where there is none. Raises Unauthenticated."""
    found: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) > 1:
        raise Unauthenticated("there is more than one Authorization header")
    return found[0] if found else None


def _scope(action: Action, repository: str, source: str | None) -> str:
    actions = _DELETE if action is Action.DELETE else _PULL_PUSH
    if action not in (Action.PULL, Action.PUSH, Action.DELETE):
        actions = f"pull,{action}"
    asked = f"repository:{repository}:{actions}"
    if source is None:
        return asked
    return f"{asked} repository:{source}:{MOUNT if source == ANYWHERE else Action.PULL}"


def _source(scope: Scope) -> str | None:
    """Return where a mount is from, ANYWHERE if it does not say; None if this is no mount."""
    if scope["method"] != "POST" or b"mount=" not in scope["query_string"]:
        return None
    query = QueryParams(scope["query_string"])
    if not query.get("mount"):
        return None
    try:
        return parse_name(query["from"]) if query.get("from") else ANYWHERE
    except NameInvalid:
        return None  # the handler says so
