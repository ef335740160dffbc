"""The front door with rules in force, stormed by those who have no rights: they are refused for
little, they are cut as anybody is, and others are served meanwhile.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.access import Guarded, guarded
from tests.serving import digest_of, push_blob
from tests.wire.build import assert_refused, image, put_manifest, rows
from tests.wire.raw import Connection, eventually, request

GIB = 1 << 30
PATH = "/v2/team/a/manifests/v1"
# A name nobody has costs a slow hash: it shows whether one was made.
WRONG = "Authorization: Basic " + base64.b64encode(b"mallory:guess").decode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    options = ("--idle", "1s", "--body-seconds", "1s", "--body-bytes", "1000",
               "--header-count", "100", "--target-limit", "8KiB",
               "--login-failures", "9999")  # fmt: skip
    with guarded(tmp_path_factory.mktemp("stormed"), options) as served:
        with served.client() as client:
            client.auth = served.basic("ann")
            push_blob(client, "team/a", b"config")
            put_manifest(client, "team/a", "v1", image(b"config"))
        yield served


def refused(registry: Guarded, reason: str) -> int:
    """How many were refused for this reason, by the metrics."""
    with registry.client() as client:
        text = client.get("/metrics").text
    found = re.search(rf'^lading_refused_total{{reason="{reason}"}} ([0-9.]+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def spent(registry: Guarded) -> float:
    """CPU seconds of the registry so far."""
    assert registry.process is not None
    times = psutil.Process(registry.process.pid).cpu_times()
    return times.user + times.system


@pytest.fixture(scope="module")
def cheap(registry: Guarded) -> float:
    """CPU seconds that a request refused without a hash may take: a fourth of one with a hash."""
    before = spent(registry)
    for _ in range(20):
        with Connection(registry) as connection:
            assert_refused(connection.ask(request("GET", PATH, WRONG)), 401, "UNAUTHORIZED")
    return (spent(registry) - before) / 20 / 4


# -- what is refused costs little

HEADS = {
    "two lengths": (400, "malformed", ["Content-Length: 4", "Content-Length: 0"]),
    "two framings": (400, "malformed", ["Content-Length: 4", "Transfer-Encoding: chunked"]),
    "an odd coding": (400, "malformed", ["Transfer-Encoding: xchunked"]),
    "two hosts": (400, "malformed", ["Host: other"]),
    "a huge credential": (431, "headers", ["Authorization: Basic " + "eHh4" * 45_000]),
    "many credentials": (431, "headers", [WRONG] * 110),
    "many headers": (431, "headers", [f"X-{number}: y" for number in range(110)]),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", "/token")])
def test_a_head_that_is_refused_is_no_login(
    registry: Guarded, cheap: float, method: str, path: str, head: str
) -> None:
    status, reason, fields = HEADS[head]
    logins, counted, before = refused(registry, "login"), refused(registry, reason), spent(registry)
    asked = request(method, path, WRONG, *fields) + b"0\r\n\r\n" + request("DELETE", PATH)
    for _ in range(20):
        with Connection(registry) as connection:
            answer = connection.ask(asked)
            assert_refused(answer, status, "UNSUPPORTED")
            # What was hidden behind it is not run, as anybody.
            assert connection.is_closed()
    assert spent(registry) - before < 20 * cheap
    assert refused(registry, "login") == logins
    assert refused(registry, reason) == counted + 20


@pytest.mark.parametrize(
    "fields",
    [[WRONG] * 2, [WRONG] * 90, ["Authorization: Bearer " + "a" * 100_000], ["Authorization: x"]],
    ids=["two credentials", "90 credentials", "a long token", "another scheme"],
)
def test_credentials_that_cannot_be_any_are_no_login(
    registry: Guarded, cheap: float, fields: list[str]
) -> None:
    logins, before = refused(registry, "login"), spent(registry)
    with Connection(registry) as connection:
        for _ in range(20):
            for path in (PATH, "/token"):
                answer = connection.ask(request("GET", path, *fields))
                assert_refused(answer, 401, "UNAUTHORIZED")
    assert spent(registry) - before < 40 * cheap
    assert refused(registry, "login") == logins


@pytest.mark.parametrize(
    "scopes",
    [
        [f"repository:team/{number}:pull" for number in range(1500)],
        [f"repository:team/{'a' * 40_000}:pull,push"],
        [f"repository:team/{number}{'a' * 240}:pull" for number in range(200)],
        ["repository:" * 5000],
    ],
    ids=["many", "long", "many and long", "none"],
)
def test_whatever_is_asked_for_a_token_can_be_used(registry: Guarded, scopes: list[str]) -> None:
    login = {"grant_type": "password", "username": "ann", "password": registry.secrets["ann"]}
    with registry.client() as client:
        answer = client.post("/token", data={**login, "scope": " ".join(scopes)})
        assert answer.status_code == 200
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert client.get("/v2/", headers=headers).status_code == 200


def test_a_target_or_a_form_that_is_too_long_is_refused(registry: Guarded) -> None:
    before = refused(registry, "target"), refused(registry, "body")
    scope = f"repository:team/{'a' * 8200}:pull"
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", f"/token?scope={scope}", WRONG))
        assert_refused(answer, 414, "UNSUPPORTED")
    with registry.client() as client:
        form = {"grant_type": "password", "username": "x", "scope": f"{scope} " * 10}
        assert_refused(client.post("/token", data=form), 413, "SIZE_INVALID")
    assert (refused(registry, "target"), refused(registry, "body")) == (
        before[0] + 1,
        before[1] + 1,
    )


# -- whose request it is


@pytest.mark.parametrize("how", ["one by one", "in one piece"])
def test_a_connection_is_nobody_s(registry: Guarded, how: str) -> None:
    ann, bob = (
        f"Authorization: {registry.bearer(name, 'repository:team/a:pull,push')['Authorization']}"
        for name in ("ann", "bob")
    )
    begin = ("POST", "/v2/team/a/blobs/uploads/")
    # One by one, the manifest is at hand from the second on, which is another way past the guard.
    asked = [
        (200, ("GET", PATH, ann)), (200, ("GET", PATH, ann)), (401, ("GET", PATH)),
        (202, (*begin, ann)), (403, (*begin, bob)), (401, begin), (200, ("GET", PATH, bob)),
        (401, ("GET", PATH, WRONG)), (200, ("GET", PATH, ann)),
    ]  # fmt: skip
    with Connection(registry) as connection:
        if how == "in one piece":
            connection.send(b"".join(request(*each) for _, each in asked))
            found = [connection.answer().status_code for _ in asked]
        else:
            found = [connection.ask(request(*each)).status_code for _, each in asked]
    assert found == [status for status, _ in asked]


def test_the_body_of_a_refused_request_is_no_request(registry: Guarded) -> None:
    ann = f"Authorization: {registry.bearer('ann', 'repository:team/a:pull')['Authorization']}"
    hidden = request("GET", PATH, ann)
    head = request("POST", "/v2/team/a/blobs/uploads/", f"Content-Length: {len(hidden)}")
    with Connection(registry) as connection:
        assert connection.ask(head + hidden).status_code == 401
        assert connection.ask(request("GET", "/healthz")).json() == {"status": "ok"}


# -- who keeps us waiting


def test_a_stranger_s_body_is_not_waited_for(registry: Guarded) -> None:
    target = f"/v2/team/a/blobs/uploads/?digest={digest_of(b'x')}"
    lengths = (f"Content-Length: {GIB}", "Transfer-Encoding: chunked")
    with ExitStack() as stack:
        for length in lengths:
            connection = stack.enter_context(Connection(registry))
            fields = (length, "Expect: 100-continue")
            assert connection.ask(request("POST", target, *fields)).status_code == 401
            # It goes on all the same, and is cut as one who owes us a request.
            drops = [b"1\r\nx\r\n" for _ in range(60)]
            assert connection.is_cut_while_sending(drops, pause=0.1)


def test_a_slow_form_is_too_slow(registry: Guarded) -> None:
    before = refused(registry, "slow")
    form = "Content-Type: application/x-www-form-urlencoded"
    with Connection(registry) as connection:
        head = request("POST", "/token", form, "Content-Length: 50000")
        connection.send(head)
        for _ in range(10):
            connection.send(b"grant_type=")
            time.sleep(0.05)
        assert_refused(connection.answer(), 408, "SIZE_INVALID")
    assert refused(registry, "slow") == before + 1


def test_hundreds_who_keep_us_waiting_are_cut_and_others_served(registry: Guarded) -> None:
    starts = [
        b"", b"GET /v2/ HT", request("GET", PATH)[:-2],
        b"GET /token HTTP/1.1\r\nHost: a\r\n" + WRONG.encode(),
    ]  # fmt: skip
    logins = refused(registry, "login")
    ann = registry.bearer("ann", "repository:team/a:pull")
    with ExitStack() as stack, registry.client() as client:
        waiting = [stack.enter_context(Connection(registry)) for _ in range(300)]
        for number, connection in enumerate(waiting):
            connection.send(starts[number % len(starts)])
        began = time.monotonic()
        for _ in range(50):
            assert client.get(PATH, headers=ann).status_code == 200
        assert time.monotonic() - began < 3
        for connection in waiting:
            connection.rest()
        assert time.monotonic() - began < 10
    assert refused(registry, "login") == logins


def test_a_flood_of_logins_is_bounded_and_others_are_served(registry: Guarded) -> None:
    ann = registry.bearer("ann", "repository:team/a:pull")

    def guess(number: int) -> int:
        credential = base64.b64encode(b"mallory%d:guess" % number).decode()
        with Connection(registry) as connection:
            asked = request("GET", "/token", f"Authorization: Basic {credential}")
            answer = connection.ask(asked)
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code

    with ThreadPoolExecutor(100) as pool, registry.client() as client:
        guesses = [pool.submit(guess, number) for number in range(300)]
        eventually(lambda: refused(registry, "logins") > 0)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert client.get(PATH, headers=ann).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        statuses = {each.result() for each in guesses}
    assert statuses == {401, 429}


# -- what remains of it


def test_a_flood_of_refusals_is_few_rows_and_no_number_is_lost(tmp_path: Path) -> None:
    with guarded(tmp_path) as served:
        with served.client() as client, Connection(served) as connection:
            client.auth = served.basic("bob")
            assert client.post("/v2/team/a/blobs/uploads/").status_code == 403
            # Who shows nothing is asked who they are, and refused nothing.
            token = f"Authorization: Bearer {served.token(None)}"
            asked = [
                request("GET", f"/v2/none/{number}/tags/list", token) for number in range(1000)
            ]
            for piece in (asked, asked[:1] * 1000):
                connection.send(b"".join(piece))
                assert {connection.answer().status_code for _ in piece} == {401}
            assert "lading_audit_folded_total 1901.0" in client.get("/metrics").text
        assert served.stop() == 0
        found = rows(served, "SELECT actor, subject, outcome, detail FROM audit_event")
    refusals = [
        (actor, subject, json.loads(detail).get("repeated"))
        for actor, subject, outcome, detail in found
        if outcome == "denied"
    ]
    assert len(refusals) == 102
    assert refusals[0] == ("user:bob", "team/a", None)
    told = {(actor, subject): count for actor, subject, count in refusals if count is not None}
    assert told == {("anyone", "none/0"): 1000, ("several", "several"): 901}
