# What a registry may answer, and what the command makes of it: a real server with these answers.
from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.mlext.commands import Commands
from tests.serving import Served
from tests.wire.test_tls import Authority

PROBLEM = "application/problem+json"
ALIAS = {"alias": "prod", "version": 2, "artifact_digest": "sha256:" + "a" * 64}
PROMOTE = ("promote", "team/fraud", 2, "prod", "--expected", 1)
EVALUATE = ("evaluate", "team/fraud", 2, "--metric", "f1=0.9")


@dataclass
class Answers:
    """What is answered, one after the other; the last for good. None closes the connection."""

    given: list[tuple[int, dict[str, str], bytes] | None]
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


def problem(
    status: int, code: str, detail: str, data: object = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    document = {"status": status, "code": code, "detail": detail, "data": data, "request_id": "r-1"}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return status, {"Content-Type": PROBLEM, **named}, json.dumps(document).encode()


def document(found: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


BUSY = problem(429, "too_many_requests", "too many requests", Retry_After="0")
AWAY = problem(503, "unavailable", "the catalog is out of reach", Retry_After="0")


@contextmanager
def answering(
    *given: tuple[int, dict[str, str], bytes] | None,
) -> Iterator[tuple[Commands, Answers]]:
    answers = Answers(list(given))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            answers.asked.append((self.command, self.path, headers, body))
            now = answers.given[0] if len(answers.given) == 1 else answers.given.pop(0)
            if now is None:
                self.close_connection = True
                return
            status, named, content = now
            self.send_response(status)
            for key, value in {**named, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - their names there

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Commands(f"http://127.0.0.1:{server.server_address[1]}"), answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("first", [BUSY, AWAY, (502, {}, b"<html>"), None])
def test_a_move_is_sent_again_and_is_still_one_move(
    first: tuple[int, dict[str, str], bytes] | None,
) -> None:
    with answering(first, document(ALIAS)) as (lading, answers):
        assert lading.done(*PROMOTE).startswith("prod: 1 -> 2")
    (first_time, again) = answers.asked
    assert first_time == again
    assert len(first_time[2]["idempotency-key"]) == 32
    assert json.loads(first_time[3])["expected_version"] == 1


def test_what_would_be_done_twice_is_sent_again_only_where_it_was_not_done() -> None:
    with answering(AWAY, document({"metrics": {}})) as (lading, answers):
        assert lading(*EVALUATE).status == 4
        assert len(answers.asked) == 1
    with answering(None, document({"metrics": {}})) as (lading, answers):
        assert lading(*EVALUATE).status == 4
        assert len(answers.asked) == 1
    with answering(BUSY, document({"metrics": {}})) as (lading, answers):
        assert lading(*EVALUATE).status == 0
        assert len(answers.asked) == 2


@pytest.mark.parametrize("is_a_date", [True, False])
def test_it_waits_for_as_long_as_it_is_told_to(is_a_date: bool) -> None:
    # A date has no fractions: what is two seconds off is more than one second off.
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    later = problem(503, "unavailable", "away", Retry_After=moment if is_a_date else "1")
    begun = time.monotonic()
    with answering(later, document({"models": []})) as (lading, _):
        assert lading("models").status == 0
    assert time.monotonic() - begun > 0.8


def test_it_gives_up_at_last_and_says_when_to_come_again() -> None:
    begun = time.monotonic()
    with answering(problem(503, "unavailable", "away", Retry_After="300")) as (lading, answers):
        ended = lading("models", "--timeout", 5)
    assert time.monotonic() - begun < 5
    assert (ended.status, len(answers.asked)) == (4, 1)
    assert ended.err == "lading models: away (to be asked again after 300 seconds) (request r-1)\n"
    with answering(AWAY) as (lading, answers):
        assert lading("models").status == 4
    assert len(answers.asked) == 5


def test_a_refused_gate_is_told_condition_by_condition() -> None:
    conditions = [
        {"gate": "q", "kind": "rule", "text": "f1 is high", "passed": True, "reason": "it is true"},
        {
            "gate": "q",
            "kind": "approvals",
            "text": "2 approve",
            "passed": False,
            "reason": "one\x1b[2J",
        },
    ]
    refusal = problem(
        403, "gate_unsatisfied", "the gate of prod lets no version 2 of team/fraud pass: one",
        {"passed": False, "conditions": conditions},
    )  # fmt: skip
    with answering(refusal) as (lading, _):
        ended = lading(*PROMOTE)
        as_json = lading(*PROMOTE, "--json")
    assert (ended.status, ended.out) == (1, "")
    assert (
        ended.err
        == """\
lading promote: the gate of prod lets no version 2 of team/fraud pass:
  passed  f1 is high: it is true [q]
  FAILED  2 approve: one?[2J [q]
"""
    )
    assert (as_json.status, as_json.out) == (1, "")
    assert json.loads(as_json.err)["data"]["conditions"] == conditions


def test_the_place_in_a_filter_is_pointed_at() -> None:
    where = {"line": 1, "column": 12, "context": "metrics.f1 >> 0.8\n           ^"}
    with answering(problem(400, "filter_invalid", "a number is due here", where)) as (lading, _):
        ended = lading("versions", "team/fraud", "--filter", "metrics.f1 >> 0.8")
    assert ended.status == 2
    assert (
        ended.err
        == """\
lading versions: a number is due here
  metrics.f1 >> 0.8
             ^
"""
    )


def test_a_check_that_fails_is_told_on_stdout() -> None:
    conditions = [{"text": "2 approve", "passed": False, "reason": "none"}]
    checked = {"alias": "prod", "version": 2, "passed": False, "conditions": conditions}
    with answering(document(checked)) as (lading, answers):
        ended = lading("promote", "team/fraud", 2, "prod", "--check")
        assert lading("promote", "team/fraud", 2, "prod", "--check", "--json").status == 1
    assert ended.status == 1
    assert "does NOT pass" in ended.out
    assert "FAILED  2 approve: none" in ended.out
    assert answers.asked[0][:2] == ("GET", "/v1/models/team/fraud/aliases/prod/check?version=2")


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ((404, {"Content-Type": "text/html"}, b"<html>"), 1, "answered 404 Not Found"),
        ((200, {}, b"<html>"), 4, "not as a Lading registry does"),
        ((200, {}, b"[]"), 4, "not as a Lading registry does"),
        ((301, {"Location": "http://x/"}, b""), 1, "answered 301 Moved Permanently"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), 4, "cannot reach"),
        (document({"models": [{"name": "x"}]}), 4, "says no 'model'"),
        (problem(405, "method_unsupported", "GET is not for this"), 1, "another release"),
        (problem(400, "document_invalid", "no such key at 3"), 2, "no such key at 3"),
        (problem(500, "fault", "a fault of ours"), 4, "a fault of ours (request r-1)"),
        (problem(404, "x", "one\x1b[31m\nline"), 1, "one?[31m?line"),
    ],
)
def test_an_answer_of_any_kind_is_one_line(
    answer: tuple[int, dict[str, str], bytes], status: int, said: str
) -> None:
    with answering(answer) as (lading, _):
        ended = lading("models")
    assert (ended.status, ended.out) == (status, "")
    assert ended.err.startswith("lading models: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_registry_that_is_not_there_is_told_at_once() -> None:
    begun = time.monotonic()
    ended = Commands("127.0.0.1:1")("models")
    assert ended.status == 4
    assert ended.err.startswith("lading models: cannot reach http://127.0.0.1:1: ")
    assert time.monotonic() - begun < 5


def test_versions_are_asked_for_in_the_words_of_the_api() -> None:
    version = {"model": "team/fraud", "version": 3, "metrics": {"f1": 0.9}}
    pages = (
        document({"versions": [version], "next_cursor": "c/1"}),
        document({"versions": [{**version, "version": 2}], "next_cursor": None}),
    )
    asked = ("--stage", "staging", "--filter", "metrics.f1 > 0.8", "--sort", "-metrics.f1",
             "--limit", "1")  # fmt: skip
    with answering(*pages) as (lading, answers):
        found = lading.json("versions", "team/fraud", *asked, "--all")
    assert [each["version"] for each in found["versions"]] == [3, 2]
    query = "stage=staging&filter=metrics.f1+%3E+0.8&sort=-metrics.f1&limit=1"
    assert [each[1] for each in answers.asked] == [
        f"/v1/models/team/fraud/versions?{query}",
        f"/v1/models/team/fraud/versions?{query}&cursor=c%2F1",
    ]
    with answering(document({"versions": [], "next_cursor": "x"})) as (lading, answers):
        ended = lading("versions", "--filter", "tags.a = 'b'")
    assert answers.asked[0][1].startswith("/v1/versions?filter=tags.a")
    assert "there are more: --all" in ended.err


def test_lineage_and_comparisons_are_asked_for_in_the_words_of_the_api() -> None:
    found = {"node": "dataset:d@3", "nodes": [], "edges": [], "dangling": [], "truncated": False}
    with answering(document(found)) as (lading, answers):
        lading.done("lineage", "--node", "dataset:d@3", "--downstream", "--depth", 3)
        lading.done("lineage", "team/fraud", 42, "--alias", "prod")
        lading.done("compare", "team/fraud", 41, 42)
    assert [each[1] for each in answers.asked] == [
        "/v1/lineage?node=dataset%3Ad%403&direction=downstream&depth=3",
        "/v1/models/team/fraud/versions/42/lineage?direction=upstream&alias=prod",
        "/v1/models/team/fraud/compare?base=41&target=42",
    ]


def test_only_the_authority_that_is_named_is_trusted(tmp_path: Path) -> None:
    authority, other = Authority.made(tmp_path / "ca"), Authority.made(tmp_path / "other")
    for name in ("server", "client"):
        authority.issue(name)
    files = {each: str(authority.folder / each) for each in ("server.pem", "server.key", "ca.pem")}
    options = ("--tls-cert", files["server.pem"], "--tls-key", files["server.key"])
    asked = ("--tls-client-ca", files["ca.pem"], "--tls-client", "required")
    trust = authority.trust()
    trust.load_cert_chain(authority.folder / "client.pem", authority.folder / "client.key")
    served = Served(tmp_path / "data", options=(*options, *asked), trust=trust).start()
    try:
        lading = Commands(served.url)
        mine = ("--client-cert", authority.folder / "client.pem",
                "--client-key", authority.folder / "client.key")  # fmt: skip
        assert lading("models", *mine, LADING_CA_FILE=files["ca.pem"]).status == 0
        assert lading("models", *mine, "--ca-file", files["ca.pem"]).status == 0
        # The registry hangs up on who has none; TLS 1.3 does not say why.
        nobody = lading("models", "--ca-file", files["ca.pem"], "--timeout", "0.4")
        assert nobody.status == 4
        wrong = lading("models", *mine, "--ca-file", other.folder / "ca.pem")
        assert wrong.status == 4
        assert "CERTIFICATE_VERIFY_FAILED" in wrong.err
        assert lading("models", *mine).status == 4
    finally:
        served.stop()
