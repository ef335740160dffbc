"""The front door: every request passes here, once. It gives each a request id, answers what was
raised, counts and logs it, and lets hot reads go past the router.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ociserver.errors import BodySlow, BodyTooLarge, ClientGone, Fault, LadingError, RouteUnknown
from ociserver.rendered import Rendered
from ociserver.web.errors import Headers, answer_to
from ociserver.web.guard import Guard
from ociserver.web.headers import is_unchanged
from ociserver.web.observe import AccessLog, Metrics
from ociserver.web.protocol import HeadLimits, RequestHead

_LEFT = 499
# Whoever has a signed URL can read what it is of: no log has one whole.
_SIGNATURE = re.compile(r"\bsignature=[^&]*", re.IGNORECASE)
_SERVER_FAULT = 500
# Which limit it was, for the count of refusals: of a body, and of a head by its status.
_BODY_LIMITS: dict[type[LadingError], str] = {BodySlow: "slow", BodyTooLarge: "body"}
_HEAD_LIMITS = {400: "malformed", 414: "target", 431: "headers"}
log = logging.getLogger("lading.web")

# For the target of a GET or HEAD: the answer, if it is at hand and holds.
AtHand = Callable[[bytes], Rendered | None]


@dataclass(slots=True)
class _Exchange:
    """One request and what is known of its answer so far."""

    id: str
    status: int = 0
    sent: int = 0
    whole: bool = False


class FrontDoor:
    """The outermost ASGI application."""

    def __init__(  # noqa: PLR0913 - put together once, each part by its name
        self,
        app: ASGIApp,
        *,
        at_hand: Sequence[AtHand],
        guard: Guard,
        metrics: Metrics,
        access_log: AccessLog | None,
        limits: HeadLimits,
    ) -> None:
        self.limits = limits
        self._app = app
        self._at_hand = at_hand
        self._guard = guard
        self._metrics = metrics
        self._access_log = access_log
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        exchange = _Exchange(f"{self._prefix}-{next(self._numbers):x}")
        header = (b"x-request-id", exchange.id.encode())

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": [*message["headers"], header]}
            else:
                exchange.sent += len(message.get("body", b"")) + message.get("sent", 0)
                exchange.whole = not message.get("more_body", False)
            await send(message)

        scope["lading.request_id"] = exchange.id
        try:
            await self._answer(scope, receive, observed, exchange)
        finally:
            self._record(scope, exchange, time.perf_counter() - started)

    def answer_hot(self, head: RequestHead) -> bytes | None:
        """Return the whole answer to a request that needs no wait, None for all others.

        The protocol asks before it makes a task, a scope and a cycle of send and receive: for what
        is at hand those would be most of the work.
        """
        for at_hand in self._at_hand:
            if (found := at_hand(head.target)) is not None:
                break
        else:
            return None
        if not self._guard.may_pull_hot(head, found.repository):
            return None
        started = time.perf_counter()
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        if is_unchanged(head.if_none_match(), found.etag):
            status, line, body = 304, b"HTTP/1.1 304 Not Modified\r\n", b""
        else:
            status, line = 200, b"HTTP/1.1 200 OK\r\n"
            body = found.body if head.method == b"GET" else b""
        self._metrics.hot(found.endpoint, head.method, status, len(body))
        if self._access_log is not None:
            self._access_log.line(
                request_id,
                head.client,
                head.method.decode(),
                head.target.decode("ascii"),
                status,
                len(body),
                time.perf_counter() - started,
            )
        fields = found.head if status == 200 else found.validator_head  # noqa: PLR2004
        return b"%s%s%sx-request-id: %s\r\n\r\n%s" % (
            line,
            head.date,
            fields,
            request_id.encode(),
            body,
        )

    def note_refused(self, status: int, client: str, size: int) -> str:
        """Count and log a head that never became a request; return its id."""
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        self._metrics.answered("unknown", "-", status, 0.0)
        self._metrics.refused(_HEAD_LIMITS[status])
        if self._access_log is not None:
            self._access_log.line(request_id, client, "-", "-", status, size, 0.0)
        return request_id

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange
    ) -> None:
        try:
            with self._metrics.under_way.track_inprogress():
                await self._app(scope, receive, send)
        except ClientGone:
            exchange.whole = False
        except HTTPException:
            await self._refuse(RouteUnknown("nothing lives at this path"), scope, send, exchange)
        except LadingError as error:
            await self._refuse(error, scope, send, exchange)
        except Exception:
            log.exception("fault", extra={"fields": {"request_id": exchange.id}})
            if exchange.status:
                raise
            fault = Fault(f"the registry failed; its log names this request {exchange.id}")
            await _send(answer_to(fault, scope, self._guard.realm.challenge), send)

    async def _refuse(
        self, error: LadingError, scope: Scope, send: Send, exchange: _Exchange
    ) -> None:
        answer = status, _, _ = answer_to(error, scope, self._guard.realm.challenge)
        if (limit := _BODY_LIMITS.get(type(error))) is not None:
            self._metrics.refused(limit)
        if status >= _SERVER_FAULT:
            fields = {"request_id": exchange.id, "status": status, "path": scope["path"]}
            log.warning(str(error), extra={"fields": fields})
        if exchange.status:
            # The answer has begun: only closing the connection tells that it is not whole.
            raise error
        await _send(answer, send)

    def _record(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        status = exchange.status if exchange.whole else _LEFT
        endpoint = scope.get("lading.endpoint", "unknown")
        method = scope["method"]
        self._metrics.answered(endpoint, method, status, seconds)
        self._metrics.sent.inc(exchange.sent)
        if self._access_log is not None:
            client = scope["client"][0] if scope["client"] else ""
            target = scope["path"]
            if scope["query_string"]:
                query = scope["query_string"].decode("latin-1")
                target = f"{target}?{_SIGNATURE.sub('signature=', query)}"
            self._access_log.line(
                exchange.id, client, method, target, status, exchange.sent, seconds
            )


async def _send(answer: tuple[int, Headers, bytes], send: Send) -> None:
    status, headers, body = answer
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work again and again until cancelled; a failure is logged and the next one tried."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            log.exception("background work failed")
