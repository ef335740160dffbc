"""S3 goes away in the middle of a storm of pushes and pulls, and comes back."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import httpx

from tests.faults.stage import Stage, check_unavailable
from tests.serving import digest_of, push_blob
from tests.wire.build import MIB, assert_refused, new_repository, noise, put_manifest, unique_image
from tests.wire.raw import eventually


@dataclass
class Storm:
    """Clients that go on through the outage; each answer is looked at as it comes."""

    stage: Stage
    path: str
    body: bytes
    manifest: str
    stop: Event = field(default_factory=Event)
    pushed: list[tuple[str, bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cut: int = 0

    def push(self, client: httpx.Client) -> None:
        repository = new_repository()
        body = noise(random.choice([2_000, 300_000, 2 * MIB, 9 * MIB]))
        begun = client.post(f"/v2/{repository}/blobs/uploads/")
        assert begun.status_code == 202, begun.text  # the catalog is there
        location, rest = begun.headers["location"], body
        if random.random() < 0.5:
            half = len(body) // 2
            answer = client.patch(location, content=body[:half])
            self.statuses.append(answer.status_code)
            if answer.status_code != 202:
                check_unavailable(answer)
                return
            rest = body[half:]
        answer = client.put(location, params={"digest": digest_of(body)}, content=rest)
        self.statuses.append(answer.status_code)
        blob = f"/v2/{repository}/blobs/{digest_of(body)}"
        if answer.status_code == 201:
            self.pushed.append((blob, body))
        else:
            check_unavailable(answer)
            assert client.head(blob).status_code == 404

    def pull(self, client: httpx.Client) -> None:
        came = b""
        try:
            with client.stream("GET", self.path) as answer:
                self.statuses.append(answer.status_code)
                if answer.status_code == 503:
                    answer.read()
                    check_unavailable(answer)
                    return
                assert answer.status_code == 200
                for piece in answer.iter_raw():
                    came += piece
        except httpx.RemoteProtocolError:
            self.cut += 1
            assert self.body.startswith(came)
        else:
            assert came == self.body

    def read(self, client: httpx.Client) -> None:
        assert client.get(self.manifest).status_code == 200
        assert client.get("/healthz").status_code == 200

    def run(self, act: Callable[[httpx.Client], None]) -> None:
        with self.stage.served.client() as client:
            while not self.stop.is_set():
                act(client)


def test_through_an_outage_of_s3_every_answer_is_clean_and_nothing_acknowledged_is_lost(
    stage: Stage, client: httpx.Client
) -> None:
    repository, body = new_repository(), noise(12 * MIB)
    digest = push_blob(client, repository, body)
    put_manifest(client, repository, "v1", unique_image())
    storm = Storm(stage, f"/v2/{repository}/blobs/{digest}", body, f"/v2/{repository}/manifests/v1")
    with ThreadPoolExecutor(6) as pool:
        acts = [storm.push, storm.push, storm.push, storm.pull, storm.pull, storm.read]
        clients = [pool.submit(storm.run, act) for act in acts]
        try:
            eventually(lambda: len(storm.pushed) > 3)
            stage.proxy.refuse()
            eventually(lambda: client.get("/readyz").status_code == 503)
            assert_refused(client.get("/readyz"), 503, "TOOMANYREQUESTS")
            eventually(lambda: storm.statuses.count(503) > 3)
            stage.proxy.accept()
            eventually(lambda: client.get("/readyz").status_code == 200)
            after = len(storm.pushed)
            eventually(lambda: len(storm.pushed) > after + 3)
        finally:
            stage.proxy.accept()
            storm.stop.set()
        for each in clients:
            each.result()
    assert set(storm.statuses) <= {200, 201, 202, 503}
    for blob, pushed in storm.pushed:
        assert client.get(blob).content == pushed
    stage.check_named()
