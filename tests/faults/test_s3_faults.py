"""One fault of S3 at a time, at each step of push, pull, cancel and deletion.

A client hears of success and then has its bytes, or of a failure in the spec's words. Nothing wrong
can be read, and no object or multipart upload is ever in the bucket that no row names.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import httpx
import pytest

from tests.faults.stage import Stage, check_unavailable, staged
from tests.faulty import Fault, Rule
from tests.s3 import S3Server
from tests.s3_wire import Operation
from tests.serving import digest_of, push_blob
from tests.wire.build import MIB, assert_refused, begin, new_repository, noise

Push = Callable[[httpx.Client, str, bytes], httpx.Response]

# One way of each size: put whole, put by a writer, two parts, parts and a tail that is replaced.
_TINY, _SMALL, _LARGE, _CHUNKED = 20_000, MIB, 9 * MIB, 8 * MIB
# aiohttp repeats these once, unseen, when a connection ends before the answer's head.
_REPEATED_UNSEEN = {"PutObject", "UploadPart", "HeadObject", "GetObject", "AbortMultipartUpload"}
_EARLY: tuple[Fault, ...] = ("cut", "lost_answer", "truncated")


def at_once(client: httpx.Client, location: str, body: bytes) -> httpx.Response:
    return client.put(location, params={"digest": digest_of(body)}, content=body)


def in_chunks(client: httpx.Client, location: str, body: bytes) -> httpx.Response:
    """A part; a tail; a tail that replaces it; the rest with the closing PUT."""
    cuts = (0, 5 * MIB + 7, 6 * MIB, 7 * MIB)
    for start, end in pairwise(cuts):
        fields = {"content-range": f"{start}-{end - 1}"}
        answer = client.patch(location, content=body[start:end], headers=fields)
        if answer.is_error:
            return answer
    return client.put(location, params={"digest": digest_of(body)}, content=body[cuts[-1] :])


@dataclass(frozen=True, slots=True)
class Step:
    """A request to S3 that a push makes, the nth of its kind."""

    push: Push
    size: int
    operation: Operation
    nth: int = 1

    def rule(self, fault: Fault, location: str) -> Rule:
        unseen = fault in _EARLY and self.operation in _REPEATED_UNSEEN
        # A deletion names its objects in its body.
        key = "" if self.operation == "DeleteObjects" else location.rpartition("/")[2]
        times = 2 if unseen else 1
        return Rule(fault=fault, operation=self.operation, key=key, nth=self.nth, times=times)

    def __str__(self) -> str:
        return f"{self.push.__name__}-{self.size}-{self.operation}-{self.nth}"


TINY_PUT = Step(at_once, _TINY, "PutObject")
SMALL_PUT = Step(at_once, _SMALL, "PutObject")
CREATE = Step(at_once, _LARGE, "CreateMultipartUpload")
FIRST_PART = Step(at_once, _LARGE, "UploadPart")
LAST_PART = Step(at_once, _LARGE, "UploadPart", 2)
COMPLETE = Step(at_once, _LARGE, "CompleteMultipartUpload")
LOOK = Step(at_once, _LARGE, "HeadObject")
TAIL_PUT = Step(in_chunks, _CHUNKED, "PutObject")
NEXT_TAIL_PUT = Step(in_chunks, _CHUNKED, "PutObject", 2)
TAIL_GET = Step(in_chunks, _CHUNKED, "GetObject")

REFUSALS: tuple[Fault, ...] = ("slow_down", "internal")
ANSWERS: tuple[Fault, ...] = ("cut", "lost_answer", "cut_answer")
SURVIVED: list[tuple[Step, tuple[Fault, ...]]] = [
    (TINY_PUT, (*REFUSALS, *ANSWERS, "truncated", "wrong_etag")),
    (SMALL_PUT, ("slow_down", "lost_answer", "truncated")),
    (CREATE, (*REFUSALS, *ANSWERS)),
    (FIRST_PART, (*REFUSALS, *ANSWERS, "truncated")),
    (LAST_PART, ("lost_answer", "truncated")),
    (COMPLETE, (*REFUSALS, *ANSWERS, "wrong_etag")),
    (LOOK, (*REFUSALS, "cut", "wrong_etag")),
    (TAIL_PUT, ("slow_down", "lost_answer")),
    (NEXT_TAIL_PUT, ("internal", "truncated")),
    (TAIL_GET, (*REFUSALS, *ANSWERS)),
]


@pytest.mark.parametrize(("step", "faults"), SURVIVED, ids=str)
def test_a_push_survives_one_fault(
    stage: Stage, client: httpx.Client, step: Step, faults: tuple[Fault, ...]
) -> None:
    # At once, each on an object of its own: what takes time is the pause before S3 is asked again.
    with ThreadPoolExecutor(len(faults)) as pool:
        list(pool.map(lambda fault: check_survived(stage, client, step, fault), faults))
    assert stage.proxy.faults.keys() == {*faults}
    stage.check_named()


def test_a_server_that_answers_repetitions_otherwise_is_survived_too(
    minio: S3Server, tmp_path: Path
) -> None:
    # Its second Complete and Abort are answered unlike the first server's.
    with (
        staged(minio, tmp_path, ("--redirect", "off")) as stage,
        stage.served.client() as client,
    ):
        for step in (CREATE, FIRST_PART, COMPLETE, TAIL_PUT):
            check_survived(stage, client, step, "lost_answer")
        check_survived(stage, client, FIRST_PART, "truncated")
        check_survived(stage, client, TAIL_GET, "cut_answer")
        stage.check_named()
        location = half_pushed(client)
        stage.proxy.add(Rule(fault="lost", operation="AbortMultipartUpload"))
        stage.proxy.add(Rule(fault="lost", operation="DeleteObjects"))
        assert client.delete(location).status_code == 204
        check_nothing_left(stage, location)


def check_survived(stage: Stage, client: httpx.Client, step: Step, fault: Fault) -> None:
    repository, body = new_repository(), noise(step.size)
    location = begin(client, repository)
    stage.proxy.add(step.rule(fault, location))
    pushed = step.push(client, location, body)
    assert pushed.status_code == 201, f"{fault}: {pushed.text}"
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


@pytest.mark.parametrize("fault", ["slow_down", "lost_answer", "lost"])
def test_a_push_leaves_no_tail_through_one_fault(
    stage: Stage, client: httpx.Client, fault: Fault
) -> None:
    body = noise(_CHUNKED)
    location = begin(client, new_repository())
    stage.proxy.add(Rule(fault=fault, operation="DeleteObjects"))
    assert in_chunks(client, location, body).status_code == 201
    assert stage.proxy.faults[fault] == 1
    assert stage.held().objects.get(location.rpartition("/")[2]) == len(body)
    ours = location.rpartition("/")[2]
    assert [key for key in stage.held().objects if key.startswith(ours)] == [ours]


def test_a_part_whose_etag_came_wrong_ends_the_upload_and_leaves_nothing(
    stage: Stage, client: httpx.Client
) -> None:
    repository, body = new_repository(), noise(_LARGE)
    location = begin(client, repository)
    stage.proxy.add(FIRST_PART.rule("wrong_etag", location))
    assert_refused(at_once(client, location, body), 404, "BLOB_UPLOAD_UNKNOWN")
    stage.check_named()
    check_pushed_anew(client, repository, body)
    stage.check_named()


def test_a_push_through_a_fault_that_stays_is_answered_503_or_done(
    stage: Stage, client: httpx.Client
) -> None:
    def endure(step: Step, fault: Fault) -> tuple[str, bytes]:
        repository, body = new_repository(), noise(step.size)
        location = begin(client, repository)
        stage.proxy.add(replace(step.rule(fault, location), times=None))
        answer = step.push(client, location, body)
        blob = f"/v2/{repository}/blobs/{digest_of(body)}"
        if fault == "lost_answer" and step in (TINY_PUT, COMPLETE):
            # Done by the store, however often it did not say so: looked at, and believed.
            assert answer.status_code == 201, f"{step}: {answer.text}"
            assert client.get(blob).content == body
        else:
            check_unavailable(answer)
            assert client.head(blob).status_code == 404
        return repository, body

    faults: tuple[Fault, ...] = ("slow_down", "lost_answer")
    steps = (TINY_PUT, CREATE, FIRST_PART, COMPLETE, LOOK, TAIL_PUT)
    cases = list(product(steps, faults))
    with ThreadPoolExecutor(len(cases)) as pool:
        endured = list(pool.map(endure, *zip(*cases, strict=True)))
    stage.check_named()
    stage.proxy.reset()
    for repository, body in endured:
        check_pushed_anew(client, repository, body)
    stage.check_named()


def check_pushed_anew(client: httpx.Client, repository: str, body: bytes) -> None:
    assert at_once(client, begin(client, repository), body).status_code == 201
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


# -- what is given up


@pytest.mark.parametrize("fault", ["slow_down", "lost_answer", "lost"])
@pytest.mark.parametrize("operation", ["AbortMultipartUpload", "DeleteObjects"])
def test_a_cancelled_upload_is_gone_at_once_through_one_fault(
    stage: Stage, client: httpx.Client, operation: Operation, fault: Fault
) -> None:
    location = half_pushed(client)
    stage.proxy.add(Step(at_once, 0, operation).rule(fault, location))
    assert client.delete(location).status_code == 204
    assert stage.proxy.faults[fault] >= 1
    check_nothing_left(stage, location)
    assert client.get(location).status_code == 404


def test_the_sweep_takes_idle_uploads_and_what_could_not_be_deleted_at_once(
    stage: Stage, client: httpx.Client
) -> None:
    idle, cancelled = half_pushed(client), half_pushed(client)
    stage.proxy.add(Rule(fault="slow_down", operation="DeleteObjects", times=None))
    stage.proxy.add(Rule(fault="slow_down", operation="AbortMultipartUpload", times=None))
    assert client.delete(cancelled).status_code == 204
    stage.check_named()
    stage.proxy.reset()
    stage.proxy.add(Rule(fault="lost", operation="DeleteObjects"))
    stage.proxy.add(Rule(fault="lost", operation="AbortMultipartUpload"))
    stage.settle()
    for location in (idle, cancelled):
        check_nothing_left(stage, location)
        assert_refused(client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("fault", ["slow_down", "cut", "lost"])
def test_bytes_pushed_twice_are_kept_once_through_one_fault(
    stage: Stage, client: httpx.Client, fault: Fault
) -> None:
    repository, body = new_repository(), noise(_TINY)
    push_blob(client, repository, body)
    before = stage.held().objects
    stage.proxy.add(Rule(fault=fault, operation="DeleteObjects", times=1))
    assert push_blob(client, repository, body) == digest_of(body)
    assert stage.proxy.faults[fault] == 1
    assert stage.held().objects.keys() <= before.keys()
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def half_pushed(client: httpx.Client) -> str:
    """Leave an upload that has a part and a tail; return where it is."""
    location = begin(client, new_repository())
    for size in (6 * MIB, MIB):
        assert client.patch(location, content=noise(size)).status_code == 202
    return location


def check_nothing_left(stage: Stage, location: str) -> None:
    key, found = location.rpartition("/")[2], stage.held()
    assert not [each for each in found.objects if each.startswith(key)]
    assert not [each for each in found.uploads if each[0] == key]
