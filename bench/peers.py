"""The registries measured: where each program is found and how it is started.

Each peer runs as it comes, with logs at error level and background sweeps off, so that no figure
is of noise.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "conformance" / ".tools" / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a peer needs to start: its folder, port and workers."""

    program: str
    folder: Path
    port: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A registry, or nginx standing for what static bytes can reach."""

    name: str
    program: str
    command: Callable[[Launch], list[str]]
    version: tuple[str, ...]
    durable: str
    static: bool = False
    refers: bool = True
    many_tags: bool = False  # takes `?tag=` on a manifest PUT
    alive: str = "/v2/"  # what it answers as soon as it is up

    def path(self) -> str | None:
        """Find the program: pinned and built here, beside this Python, or on the PATH."""
        built = TOOLS / self.program
        beside = Path(sys.executable).parent / self.program
        for found in (built, beside):
            if found.exists():
                return str(found)
        return shutil.which(self.program)


def _lading(launch: Launch) -> list[str]:
    # The folder is the working directory; the URLs are those of `make serve`.
    place = ["--catalog", "sqlite:///data/catalog.db", "--blobs", "file:///data/blobs"]
    address = ["--host", "127.0.0.1", "--port", str(launch.port)]
    workers = ["--workers", str(launch.workers)]
    logs = ["--log-level", "error", "--access-log", "off"]
    return [launch.program, "serve", *place, *address, *workers, *logs]


def _distribution(launch: Launch) -> list[str]:
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(launch.folder / "data")},
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{launch.port}"},
    }
    # JSON is YAML.
    path = launch.folder / "config.yml"
    path.write_text(json.dumps(config))
    return [launch.program, "serve", str(path)]


def _zot(launch: Launch) -> list[str]:
    storage = {"rootDirectory": str(launch.folder / "data")}
    config = {
        "distSpecVersion": "1.1.1",
        "storage": storage | {"commit": True, "dedupe": False, "gc": False},
        "http": {"address": "127.0.0.1", "port": str(launch.port)},
        "log": {"level": "error"},
    }
    path = launch.folder / "config.json"
    path.write_text(json.dumps(config))
    return [launch.program, "serve", str(path)]


def _olareg(launch: Launch) -> list[str]:
    place = ["--dir", str(launch.folder / "data"), "--gc-frequency", "-1s"]
    address = ["--addr", "127.0.0.1", "--port", str(launch.port)]
    return [launch.program, "serve", *place, *address, "--verbosity", "error"]


NGINX = """daemon off; {user} worker_processes {workers}; pid nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi; default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port}; root data;
    location = /v2/ {{ return 200; }}
    location /v2/bench/manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}
    location /v2/bench/many/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}
  }}
}}
"""


def _nginx(launch: Launch) -> list[str]:
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    text = NGINX.format(user=user, workers=launch.workers, port=launch.port)
    (launch.folder / "nginx.conf").write_text(text)
    return [launch.program, "-p", str(launch.folder), "-c", "nginx.conf", "-e", "stderr"]


PEERS = (
    Peer(
        name="lading",
        program="lading",
        command=_lading,
        version=("--version",),
        durable="201 after fsync of file, folder and catalog",
        many_tags=True,
    ),
    Peer(
        name="distribution",
        program="registry",
        command=_distribution,
        version=("--version",),
        durable="201 after fsync of the file; survived a power cut when tried",
        refers=False,
    ),
    Peer(
        name="zot",
        program="zot",
        command=_zot,
        version=("--version",),
        durable="`commit` on: 201 after fsync; a power cut lost the last push when tried",
    ),
    Peer(
        name="olareg",
        program="olareg",
        command=_olareg,
        version=("version",),
        durable="201 without fsync; a power cut lost all since the last flush when tried",
        many_tags=True,
    ),
    Peer(
        name="nginx",
        program="nginx",
        command=_nginx,
        version=("-v",),
        durable="takes no pushes",
        static=True,
    ),
)


def ready(names: list[str]) -> list[Peer]:
    """Return the peers asked for that are here; name each that is missing on stderr."""
    found = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        if peer.path():
            found.append(peer)
        else:
            print(f"bench: !! NO {peer.name}: `{peer.program}` is not on the PATH", file=sys.stderr)
    return found


def build_tools(names: list[str]) -> None:
    """Build the pinned Go programs; a failure is loud, and the PATH may still have them."""
    command = [sys.executable, str(ROOT / "conformance" / "tools.py"), *names]
    # Without names it would build them all.
    if names and subprocess.run(command, check=False).returncode:
        print(f"bench: !! could not build {', '.join(names)}; trying the PATH", file=sys.stderr)


def version(peer: Peer) -> str:
    command = [peer.path() or peer.program, *peer.version]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # zot prints the spec's version beside its own, which only a release build has.
    words = re.sub(r'"distribution-spec":"[^"]*"', "", done.stdout + done.stderr)
    found = re.search(r"\bv?\d+\.\d+\.\d+[^\s\"]*", words)
    return found[0] if found else "not a release"
