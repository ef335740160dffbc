"""Many clients and two workers at once: what was acknowledged is there, for everyone, at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, cycle
from threading import Event, Lock

import pytest

from tests.faults.audit import check_at_rest, running
from tests.faults.storm import connection_to_each_worker, together
from tests.faults.wire import ARTIFACT_TYPE, Answer, Connection, manifest_of
from tests.serving import Served, digest_of

_CLIENTS = 16
_MANY = 500


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(Served(tmp_path_factory.mktemp("storm"), workers=2)) as served:
        yield served
        check_at_rest(served.data)


def test_500_tags_pushed_together_are_all_listed(served: Served) -> None:
    def push(number: int, connection: Connection) -> None:
        for each in range(number, _MANY, _CLIENTS):
            connection.put_manifest("storm/tags", f"v{each}", manifest_of(f"tag {each % 50}"))

    together(served, _CLIENTS, push)
    with connection_to_each_worker(served) as connections:
        for connection in connections:
            assert connection.tags("storm/tags", 97) == sorted(f"v{each}" for each in range(_MANY))


def test_500_referrers_pushed_together_are_all_listed(served: Served) -> None:
    body = manifest_of("subject")
    subject = (digest_of(body), len(body))

    def push(number: int, connection: Connection) -> list[str]:
        pushed = []
        for each in range(number, _MANY, _CLIENTS):
            referrer = manifest_of(f"referrer {each}", subject=subject)
            answer = connection.put_manifest("storm/referrers", digest_of(referrer), referrer)
            assert answer.headers["OCI-Subject"] == subject[0]
            pushed.append(digest_of(referrer))
        return pushed

    pushed = sorted(chain(*together(served, _CLIENTS, push)))
    path = f"/v2/storm/referrers/referrers/{subject[0]}?n=77&artifactType={ARTIFACT_TYPE}"
    with connection_to_each_worker(served) as connections:
        for connection in connections:
            assert sorted(connection.referrers("storm/referrers", subject[0], 77)) == pushed
            filtered = connection.listed(path, "manifests")
            assert sorted(each["digest"] for each in filtered) == pushed


def test_what_one_worker_acknowledged_is_readable_by_the_next_request_to_the_other(
    served: Served,
) -> None:
    with connection_to_each_worker(served) as (one, other):
        for number, (writer, reader) in zip(range(60), cycle([(one, other), (other, one)])):
            body = manifest_of(f"moved {number}")
            writer.put_manifest("storm/next", "moving", body)
            for reference in ("moving", digest_of(body)):
                found = reader.ask("GET", f"/v2/storm/next/manifests/{reference}", expect=[200])
                assert found.body == body
            content = random.randbytes(1000)
            path = f"/v2/storm/next/blobs/{digest_of(content)}"
            reader.ask("GET", path, expect=[404])
            at_once = f"/v2/storm/next/blobs/uploads/?digest={digest_of(content)}"
            writer.ask("POST", at_once, content, expect=[201])
            assert reader.ask("GET", path, expect=[200]).body == content
            writer.ask("DELETE", path, expect=[202])
            reader.ask("GET", path, expect=[404])
            writer.ask("DELETE", "/v2/storm/next/manifests/moving", expect=[202])
            reader.ask("GET", "/v2/storm/next/manifests/moving", expect=[404])
            assert "moving" not in reader.tags("storm/next")


def test_each_201_of_a_storm_is_readable_by_the_next_request_on_a_fresh_connection(
    served: Served,
) -> None:
    body = manifest_of("subject of the fresh")
    subject = (digest_of(body), len(body))

    def push(number: int, connection: Connection) -> None:
        for each in range(12):
            content = random.randbytes(5_000)
            path = f"/v2/storm/fresh/blobs/uploads/?digest={digest_of(content)}"
            connection.ask("POST", path, content, expect=[201])
            blob = f"/v2/storm/fresh/blobs/{digest_of(content)}"
            assert _fresh(served, blob).body == content
            manifest = manifest_of(f"fresh {number} {each}", subject=subject)
            connection.put_manifest("storm/fresh", f"fresh-{number}", manifest)
            found = _fresh(served, f"/v2/storm/fresh/manifests/fresh-{number}")
            assert found.body == manifest
            with Connection(served.port) as fresh:
                assert digest_of(manifest) in fresh.referrers("storm/fresh", subject[0])

    together(served, 8, push)


def test_a_tag_under_a_storm_of_moves_reads_as_one_whole_manifest_among_those_pushed(
    served: Served,
) -> None:
    movers, moves = 8, 40
    bodies = [
        [manifest_of(f"{mover} {move} " + "x" * random.randrange(2000)) for move in range(moves)]
        for mover in range(movers)
    ]
    pushed = {digest_of(body) for row in bodies for body in row}
    path = "/v2/storm/moving/manifests/moving"
    moved = Event()
    resting = Lock()
    left = movers

    def move(number: int, connection: Connection) -> int:
        nonlocal left
        if number < movers:
            for body in bodies[number]:
                connection.put_manifest("storm/moving", "moving", body)
            with resting:
                left -= 1
                if not left:
                    moved.set()
            return 0
        seen = set()
        while not moved.is_set():
            found = connection.ask("GET", path, expect=[200])
            assert found.digest in pushed
            seen.add(found.digest)
        return len(seen)

    with Connection(served.port) as connection:
        connection.put_manifest("storm/moving", "moving", bodies[0][0])
        seen = together(served, movers + 4, move)
        assert sum(seen) > 4
        last = connection.ask("GET", path, expect=[200]).digest
        assert last in {digest_of(row[-1]) for row in bodies}
        for digest in pushed:
            connection.ask("GET", f"/v2/storm/moving/manifests/{digest}", expect=[200])


def test_deletes_and_pushes_of_one_manifest_leave_no_listed_tag_that_cannot_be_read(
    served: Served,
) -> None:
    body = manifest_of("now here, now gone")
    path = f"/v2/storm/gone/manifests/{digest_of(body)}"
    clients, rounds = 12, 10

    def churn(number: int, connection: Connection) -> None:
        for _ in range(5):
            if number % 3:
                connection.put_manifest("storm/gone", f"tag-{number}", body)
            else:
                connection.ask("DELETE", path, expect=[202, 404])

    for _ in range(rounds):
        together(served, clients, churn)
        # All is quiet now, so a tag that is listed stays.
        with connection_to_each_worker(served) as (one, other):
            listed = one.tags("storm/gone")
            assert other.tags("storm/gone") == listed
            for tag in listed:
                for connection in (one, other):
                    found = connection.ask("GET", f"/v2/storm/gone/manifests/{tag}", expect=[200])
                    assert found.body == body
            other.ask("GET", path, expect=[200] if listed else [200, 404])


def test_referrers_outlive_a_storm_of_deletes_around_them(served: Served) -> None:
    body = manifest_of("a subject that comes and goes")
    subject = (digest_of(body), len(body))
    path = "/v2/storm/edges/manifests/"

    def churn(number: int, connection: Connection) -> list[str]:
        kept = []
        for each in range(20):
            if number < 2:
                connection.put_manifest("storm/edges", "subject", body)
                connection.ask("DELETE", path + subject[0], expect=[202, 404])
                continue
            referrer = manifest_of(f"edge {number} {each}", subject=subject)
            connection.put_manifest("storm/edges", digest_of(referrer), referrer)
            if each % 2:
                connection.ask("DELETE", path + digest_of(referrer), expect=[202])
            else:
                kept.append(digest_of(referrer))
        return kept

    kept = sorted(chain(*together(served, _CLIENTS, churn)))
    with connection_to_each_worker(served) as connections:
        for connection in connections:
            assert sorted(connection.referrers("storm/edges", subject[0], 50)) == kept
            for digest in kept:
                connection.ask("GET", path + digest, expect=[200])


def _fresh(served: Served, path: str) -> Answer:
    with Connection(served.port) as connection:
        return connection.ask("GET", path, expect=[200])
