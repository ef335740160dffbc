"""One client of the soak: it pushes as real clients do, deletes some, and remembers the rest.

It asks whether a blob is there and leaves out what it is told is: that is what a collection must
not break. What it pushes is in repositories of its own, but blobs are shared with all others.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote

from tests.serving import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# Layers that every client uses, so that the same bytes live, die and come back all the time.
SHARED_LAYERS = 300
_TAGS = 25
_REPOSITORIES = 2
# Of what was pushed so many are looked at again: deleted, referred to, or pushed once more.
_RECENT = 40
# How often a request is repeated that is put off.
_PATIENCE = 6


@dataclass(frozen=True, slots=True)
class Pushed:
    """An acknowledged manifest, and what it names."""

    repository: str
    body: bytes
    kind: str
    blobs: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    subject: str | None = None

    @property
    def digest(self) -> str:
        return digest_of(self.body)


@dataclass(slots=True)
class Told:
    """What a client has to say at the end."""

    pushes: int = 0
    skipped_blobs: int = 0
    put_off: int = 0
    refusals: list[str] = field(default_factory=list)
    # By repository: what every tag points at, and every manifest that was acknowledged.
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    pushed: dict[tuple[str, str], Pushed] = field(default_factory=dict)


class Refused(Exception):
    """The registry did not take what it must take."""


def shared_layer(number: int) -> bytes:
    """Always the same bytes for the same number."""
    return random.Random(f"shared {number}").randbytes(200 + number * 7)


class Client:
    """Pushes to one replica after another, over one connection to each."""

    def __init__(self, number: int, ports: list[int]) -> None:
        self._random = random.Random(number)
        self._wires = [HTTPConnection("127.0.0.1", port, timeout=120) for port in ports]
        self._repositories = [f"soak/client{number}/r{each}" for each in range(_REPOSITORIES)]
        self._recent: deque[Pushed] = deque(maxlen=_RECENT)
        self._dead: deque[Pushed] = deque(maxlen=_RECENT)
        self._count = 0
        self.told = Told()

    def run(self, pushes: int) -> Told:
        """Push until that many manifests are acknowledged, or something is refused."""
        doings = [self._image, self._index, self._artifact, self._revive, self._delete]
        try:
            while self.told.pushes < pushes:
                self._random.choices(doings, weights=(40, 15, 20, 15, 14))[0]()
        except (Refused, HTTPException, OSError) as error:
            self.told.refusals.append(f"{self._repositories[0]}: {error!r}")
        return self.told

    # -- what it does

    def _image(self) -> None:
        self._push(self._new_image(self._repository()), tagged=True)

    def _index(self) -> None:
        repository = self._repository()
        children = [self._new_image(repository) for _ in range(2)]
        for child in children:
            self._push(child, tagged=False)
        known = [each for each in self._recent if each.repository == repository]
        if known and self._random.random() < 0.5:
            # A platform that is already there, as a client finds out by asking.
            old = self._random.choice(known)
            if self._ask("HEAD", f"/v2/{repository}/manifests/{old.digest}") == 200:
                children.append(old)
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {"mediaType": each.kind, "digest": each.digest, "size": len(each.body)}
                for each in children
            ],
            "annotations": self._unique(),
        }
        named = tuple(each.digest for each in children)
        index = Pushed(repository, json.dumps(document).encode(), INDEX, manifests=named)
        self._push(index, tagged=True)

    def _artifact(self) -> None:
        tagged = {digest for (_, _), digest in self.told.tags.items()}
        subjects = [each for each in self._recent if each.digest in tagged]
        if not subjects:
            return
        subject = self._random.choice(subjects)
        descriptor = {
            "mediaType": subject.kind,
            "digest": subject.digest,
            "size": len(subject.body),
        }
        self._push(self._new_image(subject.repository, descriptor), tagged=False)

    def _revive(self) -> None:
        """Push again what was deleted, as it was."""
        if self._dead:
            self._push(self._random.choice(self._dead), tagged=True)

    def _delete(self) -> None:
        """Delete a manifest that nothing of ours refers to."""
        kept = {name for each in self.told.pushed.values() for name in each.manifests}
        kept |= {each.subject for each in self.told.pushed.values() if each.subject}
        free = [each for each in self._recent if each.digest not in kept]
        if not free:
            return
        gone = self._random.choice(free)
        status = self._ask("DELETE", f"/v2/{gone.repository}/manifests/{gone.digest}")
        # An untagged one may have been collected before.
        if status not in {202, 404}:
            raise Refused(f"DELETE of {gone.digest}: {status}")
        self._recent.remove(gone)
        self._dead.append(gone)
        self.told.pushed.pop((gone.repository, gone.digest), None)
        for tag, digest in list(self.told.tags.items()):
            if tag[0] == gone.repository and digest == gone.digest:
                del self.told.tags[tag]

    # -- how it does it

    def _repository(self) -> str:
        return self._random.choice(self._repositories)

    def _unique(self) -> dict[str, str]:
        self._count += 1
        return {"com.example.soak": f"{self._repositories[0]} {self._count}"}

    def _new_image(self, repository: str, subject: dict[str, object] | None = None) -> Pushed:
        layers = [self._random.randbytes(self._random.choice([30, 900, 5000]))]
        layers += [
            shared_layer(self._random.randrange(SHARED_LAYERS))
            for _ in range(self._random.randrange(3))
        ]
        for layer in layers:
            self._blob(repository, layer)
        self._blob(repository, b"{}")
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                       "digest": digest_of(b"{}"), "size": 2},
            "layers": [
                {"mediaType": LAYER, "digest": digest_of(layer), "size": len(layer)}
                for layer in layers
            ],
            "annotations": self._unique(),
        }  # fmt: skip
        if subject:
            document["subject"] = subject
        return Pushed(
            repository,
            json.dumps(document).encode(),
            MANIFEST,
            blobs=tuple({digest_of(layer) for layer in [*layers, b"{}"]}),
            subject=str(subject["digest"]) if subject else None,
        )

    def _blob(self, repository: str, content: bytes) -> None:
        """Ask first, then push; sometimes mount."""
        digest = digest_of(content)
        if self._ask("HEAD", f"/v2/{repository}/blobs/{digest}") == 200:
            self.told.skipped_blobs += 1
            return
        query = f"?mount={quote(digest)}" if self._random.random() < 0.3 else ""
        status, location = self._request("POST", f"/v2/{repository}/blobs/uploads/{query}")
        if status == 201:
            return
        if status == 202:
            join = "&" if "?" in location else "?"
            target = f"{location}{join}digest={quote(digest)}"
            status, _ = self._request("PUT", target, content, "application/octet-stream")
        if status != 201:
            raise Refused(f"blob {digest} of {repository}: {status}")

    def _push(self, manifest: Pushed, *, tagged: bool) -> None:
        """Push the manifest; a dead one is asked for its blobs and children as a new one is."""
        tag = f"t{self._random.randrange(_TAGS)}" if tagged else None
        target = f"/v2/{manifest.repository}/manifests/{tag or manifest.digest}"
        revived = manifest in self._dead
        if revived and not self._whole(manifest):
            return
        status, told = self._request("PUT", target, manifest.body, manifest.kind)
        if status != 201:
            raise Refused(f"{target} (revived: {revived}): {status} {told}")
        self.told.pushes += 1
        if revived:
            self._dead.remove(manifest)
        self._recent.append(manifest)
        self.told.pushed[manifest.repository, manifest.digest] = manifest
        if tag:
            self.told.tags[manifest.repository, tag] = manifest.digest

    def _whole(self, manifest: Pushed) -> bool:
        """Tell whether all that it names is there, as told by the registry a moment ago."""
        base = f"/v2/{manifest.repository}"
        wanted = [f"{base}/blobs/{each}" for each in manifest.blobs]
        wanted += [f"{base}/manifests/{each}" for each in manifest.manifests]
        return all(self._ask("HEAD", each) == 200 for each in wanted)

    def _ask(self, method: str, target: str) -> int:
        return self._request(method, target)[0]

    def _request(
        self, method: str, target: str, body: bytes = b"", kind: str = ""
    ) -> tuple[int, str]:
        """Return the status, and the Location or what was said.

        What is put off (503 with Retry-After) is asked again then, as clients do.
        """
        for _ in range(_PATIENCE):
            status, said, retry_after = self._once(method, target, body, kind)
            if status != 503 or retry_after is None:
                break
            self.told.put_off += 1
            time.sleep(int(retry_after))
        return status, said

    def _once(
        self, method: str, target: str, body: bytes, kind: str
    ) -> tuple[int, str, str | None]:
        wire = self._random.choice(self._wires)
        headers = {"Content-Type": kind} if kind else {}
        wire.request(method, target, body if method not in {"HEAD", "DELETE"} else None, headers)
        answer = wire.getresponse()
        said = answer.read().decode(errors="replace")[:300]
        told = answer.headers.get("Location") or said
        return answer.status, told, answer.headers.get("Retry-After")


def run_clients(numbers: list[int], pushes: int, ports: list[int]) -> list[Told]:
    """Run the clients of these numbers at once, each until it has pushed so many manifests."""
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(lambda number: Client(number, ports).run(pushes), numbers))
