"""A client of the model API. It waits and asks again where that can do no harm, and says in one
sentence what a registry refused. No secret is in anything that it says.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ociserver import __version__

REFUSED = 1
USAGE = 2
CONFLICT = 3
UNREACHABLE = 4

_CONNECT_SECONDS = 10.0
# Before each time that something is asked again, where the registry does not say for how long.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
# As many as a list gives at once (`mlext.pages`).
_LARGEST_PAGE = 1_000
# Parts of a name that look like doors, the doors of such a model that another's stand before, and
# aliases that do so themselves.
_LIKE_DOORS = frozenset(("versions", "aliases", "artifacts", "compare"))
_AMBIGUOUS = ((), ("aliases",), ("compare",))
_TAKEN = (("aliases", "versions"), ("aliases", "aliases"))
_BUSY = HTTPStatus.TOO_MANY_REQUESTS
# Answers after which nobody knows whether it was done.
_AWAY = frozenset(
    (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
)
# Done twice, these are done once.
_REPEATABLE = frozenset(("GET", "PUT", "PATCH"))
# A person waits for the word that the address is wrong: these come at once.
_FOR_GOOD = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.DecodingError)
_WHO = "say who you are"
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)


class CommandFailed(Exception):
    """What was asked did not come about. `status` is the command's exit status, `problem` the
    problem document (RFC 9457) of the registry, if it is the one that says so.
    """

    def __init__(
        self, message: str, status: int = REFUSED, problem: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        """The name of the error, empty where it is not the registry's."""
        return str(self.problem.get("code", "")) if self.problem else ""

    @property
    def data(self) -> Mapping[str, Any]:
        """What the error says to a program."""
        found = self.problem.get("data") if self.problem else None
        return found if isinstance(found, Mapping) else {}


class _Document(dict[str, Any]):
    """A part of an answer. What it lacks is the registry's doing, and no fault of the command."""

    def __missing__(self, key: str) -> Any:
        raise CommandFailed(
            f"the answer says no {key!r}: the registry may be of another release than this command",
            UNREACHABLE,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the registry is. `authorization` is the header, None to be anyone; `client_files` are
    those of the client's own certificate and key, if any; `seconds` is how long one request may
    take, with all its repetitions.
    """

    url: str
    authorization: str | None = None
    ca_file: str | None = None
    client_files: tuple[str, str | None] | None = None
    seconds: float = 60.0
    is_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] | None = None
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class _Failed:
    """`wait` is for how many seconds to wait by the registry's word, None where it has none."""

    failure: CommandFailed
    may_repeat: bool
    wait: float | None = None


class Registry:
    """The model API of a registry, for one command. To be closed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        headers = {
            "User-Agent": f"lading/{__version__}",
            "Accept": "application/json, application/problem+json",
            # Where an alias stood some seconds ago is no ground to move it from.
            "Cache-Control": "no-cache",
        }
        if address.authorization is not None:
            headers["Authorization"] = address.authorization
        self._http = httpx.Client(
            base_url=address.url,
            headers=headers,
            timeout=httpx.Timeout(address.seconds, connect=min(_CONNECT_SECONDS, address.seconds)),
            verify=_trust(address),
            # A proxy of the environment leads away from this machine.
            trust_env=not address.is_loopback,
        )

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Return the document there; a query value of None is left out. Raises CommandFailed."""
        given = {key: str(value) for key, value in query.items() if value is not None}
        return self._document(self._ask(_Request(method="GET", path=path, query=given)))

    def send(
        self,
        method: str,
        path: str,
        document: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """Change something; return what the registry says to it. Raises CommandFailed.

        With an Idempotency-Key, or where `repeatable` says so, it may be sent more than once.
        """
        again = method in _REPEATABLE if repeatable is None else repeatable
        request = _Request(
            method=method,
            path=path,
            body=document,
            headers={"Idempotency-Key": key} if key else {},
            is_repeatable=again or key is not None,
        )
        answer = self._ask(request)
        return self._document(answer) if answer.content else _Document()

    def pages(self, path: str, key: str, *, every: bool = True, **query: object) -> dict[str, Any]:
        """Return the document there, with what is under the key of all its pages or the first."""
        if every and query.get("limit") is None:
            query["limit"] = _LARGEST_PAGE
        found = self.get(path, **query)
        gathered, cursor = list(found.get(key, [])), found.get("next_cursor")
        while every and cursor:
            page = self.get(path, **{**query, "cursor": cursor})
            gathered += page.get(key, [])
            cursor = page.get("next_cursor")
        return _Document({**found, key: gathered, "next_cursor": cursor})

    def digest_of(self, model: str, reference: str) -> str:
        """Return the digest of what a tag stands on. Raises CommandFailed."""
        path = f"/v2/{model}/manifests/{quote(reference, safe=':')}"
        answer = self._ask(_Request(method="GET", path=path, headers={"Accept": _MANIFESTS}))
        digest = answer.headers.get("docker-content-digest")
        if not digest:
            raise CommandFailed(f"{self._address.url} does not say what digest {reference} has")
        return str(digest)

    def _ask(self, request: _Request) -> httpx.Response:
        until = time.monotonic() + self._address.seconds
        for pause in _PAUSES:
            came = self._came_of(request)
            if isinstance(came, httpx.Response):
                return came
            wait = came.wait if came.wait is not None else pause
            if not came.may_repeat or time.monotonic() + wait > until:
                raise came.failure
            time.sleep(wait)
        came = self._came_of(request)
        if isinstance(came, httpx.Response):
            return came
        raise came.failure

    def _came_of(self, request: _Request) -> httpx.Response | _Failed:
        try:
            answer = self._http.request(
                request.method,
                request.path,
                params=request.query,
                json=request.body,
                headers=request.headers,
            )
        except httpx.RequestError as error:
            may_repeat = request.is_repeatable and not isinstance(error, _FOR_GOOD)
            return _Failed(self._unreachable(error), may_repeat=may_repeat)
        if answer.is_success:
            return answer
        status = answer.status_code
        return _Failed(
            _refusal(answer, self._address),
            may_repeat=status == _BUSY or (request.is_repeatable and status in _AWAY),
            wait=_retry_after(answer),
        )

    def _unreachable(self, error: httpx.RequestError) -> CommandFailed:
        why = str(error) or type(error).__name__
        return CommandFailed(f"cannot reach {self._address.url}: {why}", UNREACHABLE)

    def _document(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            found = answer.json(object_hook=_Document)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CommandFailed(
                f"{self._address.url} answered, but not as a Lading registry does", UNREACHABLE
            )
        return found


def place(*parts: object) -> str:
    """Return the path of the model API that these names lead to."""
    return "/v1/" + "/".join(quote(str(each), safe="/:@+") for each in parts)


def of_model(name: str, *parts: object) -> str:
    """Return the path that leads to something of a model, whatever its name looks like.

    Under /v1 a name ends where a door begins: `/v1/models/a/versions` is a's versions, and no model
    `a/versions`. Under /v2 nothing ends a name but `_lading`, which no name has in it.
    """
    is_name_like = not _LIKE_DOORS.isdisjoint(name.split("/")[1:])
    if parts in _TAKEN or (is_name_like and parts in _AMBIGUOUS):
        door = "".join(f"/{each}" for each in parts)
        return f"/v2/{quote(name)}/_lading{door}"
    return place("models", name, *parts)


def _trust(address: Address) -> ssl.SSLContext:
    if not address.url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files = [each for each in (address.ca_file, *(address.client_files or ())) if each]
    try:
        trust = ssl.create_default_context(cafile=address.ca_file)
        if address.client_files is not None:
            trust.load_cert_chain(*address.client_files)
    except OSError as error:  # ssl.SSLError is one
        raise CommandFailed(f"{', '.join(files)}: {error}", USAGE) from error
    return trust


def _retry_after(answer: httpx.Response) -> float | None:
    """Return for how many seconds to wait (RFC 9110, 10.2.3), None where it is not said."""
    text = answer.headers.get("retry-after", "")
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    since = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (since - datetime.now(UTC)).total_seconds())


def _refusal(answer: httpx.Response, address: Address) -> CommandFailed:
    problem = _problem(answer)
    status = answer.status_code
    message = _sentence(answer, address, problem)
    if status == HTTPStatus.UNAUTHORIZED and address.authorization is None:
        # Where that is all that the registry asks for, it is said once.
        how = f"{_WHO} by --user, LADING_USER, LADING_TOKEN or `docker login`"
        message = how if message == _WHO else f"{message}: {how}"
    if (seconds := answer.headers.get("retry-after")) and status in {_BUSY, *_AWAY}:
        # It may be a date, too (RFC 9110, 10.2.3).
        unit = " seconds" if seconds.isdecimal() else ""
        message += f" (to be asked again after {seconds}{unit})"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and problem and problem.get("request_id"):
        message += f" (request {problem['request_id']})"
    return CommandFailed(message, _exit_status(status, problem), problem)


def _problem(answer: httpx.Response) -> dict[str, Any] | None:
    """Return the problem document, made of the envelope where it is one of /v2/."""
    try:
        found = answer.json()
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    errors = found.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        first = errors[0]
        return {"status": answer.status_code, "code": first.get("code"),
                "detail": first.get("message"), "data": first.get("detail")}  # fmt: skip
    return found if "detail" in found or "title" in found else None


def _sentence(answer: httpx.Response, address: Address, problem: Mapping[str, Any] | None) -> str:
    if problem and problem.get("code") in {"route_unknown", "method_unsupported"}:
        return f"{address.url} does not offer that: it may be of another release than this command"
    if problem:
        return str(problem.get("detail") or problem.get("title"))
    return f"{address.url} answered {answer.status_code} {answer.reason_phrase}"


def _exit_status(status: int, problem: Mapping[str, Any] | None) -> int:
    if problem and problem.get("code") == "alias_elsewhere":
        return CONFLICT
    if status == HTTPStatus.BAD_REQUEST:
        return USAGE
    if status == _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UNREACHABLE
    return REFUSED
