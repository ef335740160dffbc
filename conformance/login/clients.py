"""Real clients behind one face: each logs in, pushes, pulls and copies in its own way.

One has a home of its own, so that it knows only who was named to it. Where a client is refused or
breaks, an AssertionError holds its words (`Refused`).
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import oras.client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conformance.conftest import Layout, Program, Tools

Refused = AssertionError
# What clients say, in their own words or in ours. oras-py says no more than that it has no answer.
SPEECHLESS = "Cannot respond to request for authentication"
UNKNOWN = f"(?i)unauthorized|authentication required|401|invalid username|{SPEECHLESS}"
HIDDEN = "(?i)name.unknown|not found|404"
DENIED = f"(?i)denied|403|forbidden|{SPEECHLESS}"
CHUNK = 65_536
NOTE = "application/vnd.conformance.note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Where programs are had: built ones, packaged ones, and ctr with its containerd."""

    tool: Tools
    installed: Tools
    ctr: Callable[[], Program]


@dataclass(kw_only=True)
class Client(ABC):
    """A client at home, and the registry as it is known there."""

    programs: Programs
    home: Path
    address: str
    logs_in = True  # it has a command that asks the registry whether the secret is right

    def __post_init__(self) -> None:
        self.home.mkdir()
        (self.home / "auth.json").write_text("{}")  # podman wants one that it is told of

    def at_home(self, program: Program) -> Program:
        places = {
            "HOME": self.home,
            "REGCTL_CONFIG": self.home / "regctl.json",
            "REGISTRY_AUTH_FILE": self.home / "auth.json",
        }
        named = {name: str(path) for name, path in places.items()}
        return replace(program, environment={**program.environment, **named})

    @abstractmethod
    def login(self, name: str, secret: str) -> None:
        """Log in, or write down what to log in with."""

    @abstractmethod
    def push(self, image: Layout, reference: str) -> None:
        """Push the image, or what this client makes of it."""

    @abstractmethod
    def pull(self, image: Layout, reference: str) -> None:
        """Pull, and see that it is this image."""

    def new_folder(self) -> Path:
        return self.home / f"back-{len(list(self.home.iterdir()))}"


class Copying(Client):
    """A client that copies between repositories, by mounts."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy it."""


def is_there(image: Layout, folder: Path) -> None:
    for digest, content in image.blobs.items():
        assert (folder / "blobs" / "sha256" / digest[7:]).read_bytes() == content


class Crane(Copying):
    @property
    def crane(self) -> Program:
        return self.at_home(self.programs.tool("crane", "--insecure"))

    def login(self, name: str, secret: str) -> None:
        told = ("auth", "login", self.address, "--username", name, "--password-stdin")
        self.crane(*told, given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        self.crane("push", image.path, reference)

    def pull(self, image: Layout, reference: str) -> None:
        folder = self.new_folder()
        self.crane("pull", "--format", "oci", reference, folder)
        is_there(image, folder)

    def copy(self, source: str, target: str) -> None:
        self.crane("copy", source, target)

    # It writes down what it is told, and asks nobody.
    logs_in = False


class Oras(Copying):
    @property
    def oras(self) -> Program:
        return self.at_home(self.programs.tool("oras"))

    def login(self, name: str, secret: str) -> None:
        told = ("login", "--plain-http", self.address, "--username", name, "--password-stdin")
        self.oras(*told, given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        source = f"{image.path}:v1"
        self.oras("cp", "--from-oci-layout", "--to-plain-http", source, reference)

    def pull(self, image: Layout, reference: str) -> None:
        folder = self.new_folder()
        self.oras("cp", "--from-plain-http", "--to-oci-layout", reference, f"{folder}:v1")
        is_there(image, folder)

    def copy(self, source: str, target: str) -> None:
        self.oras("cp", "--from-plain-http", "--to-plain-http", source, target)


class Regctl(Copying):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.regctl("registry", "set", self.address, "--tls", "disabled")

    @property
    def regctl(self) -> Program:
        return self.at_home(self.programs.tool("regctl"))

    def login(self, name: str, secret: str) -> None:
        told = ("registry", "login", self.address, "--user", name, "--pass-stdin")
        self.regctl(*told, given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        self.copy(f"ocidir://{image.path}:v1", reference)

    def pull(self, image: Layout, reference: str) -> None:
        folder = self.new_folder()
        self.copy(reference, f"ocidir://{folder}:v1")
        is_there(image, folder)

    def copy(self, source: str, target: str) -> None:
        self.regctl("image", "copy", source, target)


class RegctlInChunks(Regctl):
    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("--blob-max", str(CHUNK), "--blob-chunk", str(CHUNK))
        self.regctl("registry", "set", self.address, *sizes)


class Skopeo(Copying):
    @property
    def skopeo(self) -> Program:
        return self.at_home(self.programs.installed("skopeo", "--insecure-policy"))

    def login(self, name: str, secret: str) -> None:
        told = ("login", "--tls-verify=false", self.address, "--username", name)
        self.skopeo(*told, "--password-stdin", given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        ways = ("--dest-tls-verify=false", "--preserve-digests")
        self.skopeo("copy", *ways, f"oci:{image.path}:v1", f"docker://{reference}")

    def pull(self, image: Layout, reference: str) -> None:
        folder = self.new_folder()
        self.skopeo("copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{folder}:v1")
        is_there(image, folder)

    def copy(self, source: str, target: str) -> None:
        ways = ("--src-tls-verify=false", "--dest-tls-verify=false")
        self.skopeo("copy", *ways, f"docker://{source}", f"docker://{target}")


class Podman(Copying):
    @property
    def podman(self) -> Program:
        # fmt: off
        return self.at_home(self.programs.installed(
            "podman", "--root", self.home / "root", "--runroot", self.home / "run",
            "--tmpdir", self.home / "tmp", "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        ))
        # fmt: on

    @property
    def policy(self) -> Path:
        path = self.home / "policy.json"
        path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        return path

    def login(self, name: str, secret: str) -> None:
        told = ("login", "--tls-verify=false", self.address, "--username", name)
        self.podman(*told, "--password-stdin", given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        self.fetch(f"oci:{image.path}:v1")
        self.podman("tag", config_of(image), reference)
        self._send(reference)

    def pull(self, image: Layout, reference: str) -> None:
        self.podman("rmi", "--all", "--force")
        self.fetch(reference)
        assert config_of(image) in self.podman("images", "--quiet", "--no-trunc")

    def copy(self, source: str, target: str) -> None:
        self.fetch(source)
        self.podman("tag", source, target)
        self._send(target)

    def fetch(self, reference: str) -> None:
        ways = ("--quiet", "--tls-verify=false", "--signature-policy", self.policy)
        self.podman("pull", *ways, reference)

    def _send(self, reference: str) -> None:
        ways = ("--tls-verify=false", "--signature-policy", self.policy)
        self.podman("push", *ways, reference)


def config_of(image: Layout) -> str:
    """The config's digest: by it podman knows an image, however its layers are packed."""
    return str(json.loads(image.blobs[image.digest])["config"]["digest"])


class Containerd(Copying):
    logs_in = False
    user: tuple[str, ...] = ()

    def login(self, name: str, secret: str) -> None:
        self.user = ("--user", f"{name}:{secret}")

    def push(self, image: Layout, reference: str) -> None:
        archive = self.new_folder()
        with tarfile.open(archive, "w") as tar:
            tar.add(image.path, arcname=".")
        base = reference.rpartition(":")[0]
        self.programs.ctr()("images", "import", "--no-unpack", "--base-name", base, archive)
        self._send(reference)
        # Else the content is there already when it is to be pulled.
        self.programs.ctr()("images", "rm", "--sync", reference)

    def pull(self, image: Layout, reference: str) -> None:
        self._fetch(reference)
        for digest, content in image.blobs.items():
            assert self.programs.ctr().raw("content", "get", digest) == content

    def copy(self, source: str, target: str) -> None:
        self._fetch(source)
        self.programs.ctr()("images", "tag", source, target)
        self._send(target)

    def _fetch(self, reference: str) -> None:
        ways = ("--plain-http", "--snapshotter", "native", *self.user)
        self.programs.ctr()("images", "pull", *ways, reference)

    def _send(self, reference: str) -> None:
        self.programs.ctr()("images", "push", "--plain-http", *self.user, reference)


class OrasPython(Client):
    """oras-py: one file, which is the image's first layer, in chunks."""

    logs_in = False  # it writes down what it is told, and asks nobody
    backend = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.oras = oras.client.OrasClient(
            hostname=self.address, insecure=True, auth_backend=self.backend
        )

    def login(self, name: str, secret: str) -> None:
        config = str(self.home / "config.json")
        self.oras.login(name, secret, hostname=self.address, config_path=config)

    def push(self, image: Layout, reference: str) -> None:
        path = self.home / "layer"
        path.write_bytes(image.blobs[image.layers[0]])
        ways = {"do_chunked": True, "chunk_size": CHUNK, "disable_path_validation": True}
        try:
            self.oras.push(target=reference, files=[f"{path}:{NOTE}"], **ways)
        except ValueError as error:
            raise Refused(f"oras-py: {error}") from error

    def pull(self, image: Layout, reference: str) -> None:
        try:
            (back,) = self.oras.pull(target=reference, outdir=str(self.new_folder()))
        except ValueError as error:
            raise Refused(f"oras-py: {error}") from error
        with open(back, "rb") as file:  # noqa: PTH123 - a path of its own making
            content = file.read()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == image.layers[0]


class OrasPythonWithBasic(OrasPython):
    """oras-py as one must use it for what takes longer than a token is good."""

    backend = "basic"


class Helm(Client):
    """helm: a chart that holds the image's first layer. It is pushed to where its name says."""

    @property
    def helm(self) -> Program:
        return self.at_home(self.programs.tool("helm"))

    def login(self, name: str, secret: str) -> None:
        told = ("registry", "login", "--plain-http", self.address, "--username", name)
        self.helm(*told, "--password-stdin", given=secret.encode())

    def push(self, image: Layout, reference: str) -> None:
        parent, name = reference.rpartition(":")[0].rsplit("/", 1)
        chart = self.home / "chart"
        chart.mkdir()
        (chart / "Chart.yaml").write_text(f'apiVersion: v2\nname: "{name}"\nversion: 0.1.0\n')
        (chart / "layer").write_bytes(image.blobs[image.layers[0]])
        self.helm("package", chart, "--destination", self.home)
        self.helm("push", "--plain-http", self.home / f"{name}-0.1.0.tgz", f"oci://{parent}")

    def pull(self, image: Layout, reference: str) -> None:
        source, folder = reference.rpartition(":")[0], self.new_folder()
        folder.mkdir()
        ways = ("--plain-http", "--version", "0.1.0", "--untar", "--destination", folder)
        self.helm("pull", *ways, f"oci://{source}")
        (layer,) = folder.rglob("layer")
        assert layer.read_bytes() == image.blobs[image.layers[0]]


CLIENTS: dict[str, type[Client]] = {
    "oras": Oras,
    "oras-py": OrasPython,
    "crane": Crane,
    "regctl": Regctl,
    "skopeo": Skopeo,
    "podman": Podman,
    "containerd": Containerd,
    "helm": Helm,
}
