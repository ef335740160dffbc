"""The container image, built and started for real: it takes its own image and gives it back.

The Dockerfile's base is a name in a public registry, which a machine that tests need not reach: a
Debian of the same Python stands in for it, made once from packages. Image storage is a folder of
ours; nothing of the machine's is read or left behind.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".tools" / "image"
STAMP = CACHE / "base.stamp"
IMAGE = "localhost/lading:conformance"
# What the real base leaves out too: documents are most of what would be pushed.
LEFT_OUT = ("doc", "info", "locale", "man")
RECIPE = (
    *("mmdebstrap", "--quiet", "--variant=minbase"),
    "--include=python3,python3-venv,ca-certificates",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in LEFT_OUT),
    "bookworm",
)
# How an index is reached. Other settings of this machine's pip name its own folders.
PIP_SETTINGS = {
    *("index-url", "extra-index-url", "trusted-host", "proxy"),
    *("timeout", "default-timeout", "retries"),
}
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # pip's order
PROGRAMS = re.compile(r"(.+-)?(gcc|g\+\+|cc|c\+\+|clang|ld|make)(-[0-9.]+)?|pip[0-9.]*")
LIBRARIES = ("pip", "setuptools", "wheel")
PATIENCE = 600  # seconds, for any one program
HEALTHY_LIMIT = 30  # seconds from start to the first passed health check
STOP_LIMIT = 30  # seconds


class ImageError(Exception):
    """The image is not what it must be; the message says in what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was built, as its own configuration has it."""

    id: str
    user: int
    command: list[str]
    health: list[str]
    layers: list[str]


class Buildah:
    """buildah on our own storage, with its state in a folder that ends with us."""

    def __init__(self, state: Path) -> None:
        self._options = ["--root", str(CACHE / "storage"), "--runroot", str(state)]

    def command(self, *arguments: str | Path) -> list[str]:
        return ["buildah", *self._options, *map(str, arguments)]

    def __call__(self, *arguments: str | Path) -> str:
        return _run(self.command(*arguments)).strip()


def examine_image(port: int, results: Path) -> None:
    """Build it, look into it, start it on the port, push it to itself, compare, stop it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="conformance-image-") as name:
        scratch = Path(name)
        buildah = Buildah(scratch / "state")
        buildah("rm", "--all")  # what a run that was cut short has left
        image = _built(buildah, scratch)
        container = buildah("from", "--pull-never", IMAGE)
        try:
            _look_for_build_tools(Path(buildah("mount", container)))
            with _started(buildah, container, image, port, results / "image-server.log"):
                _there_and_back(buildah, image, f"127.0.0.1:{port}/lading/itself:v1", scratch)
        finally:
            buildah("rm", container)


def _built(buildah: Buildah, scratch: Path) -> Image:
    dockerfile = (HERE.parent / "Dockerfile").read_text()
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE))
    if len(bases) != 1:
        raise ImageError(f"one base was to be stood in for, the Dockerfile has {sorted(bases)}")
    _stand_in(buildah, bases.pop())
    with _took("built"):
        # fmt: off
        buildah(
            "build", "--isolation", "chroot", "--pull-never", "--network", "host",
            "--format", "docker",  # the other format has no place for a health check
            *_pip_secrets(scratch), "--tag", IMAGE, HERE.parent,
        )
        # fmt: on
    buildah("rmi", "--prune")  # the one before
    return _image(json.loads(buildah("inspect", "--type", "image", IMAGE)))


def _stand_in(buildah: Buildah, base: str) -> None:
    """See that the base is there, made as the recipe says."""
    made_of = hashlib.sha256("\0".join((base, *RECIPE)).encode()).hexdigest()
    if (
        STAMP.is_file()
        and STAMP.read_text() == made_of
        and base in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
    ):
        return
    with _took(f"made a stand-in for {base}"):
        container = buildah("from", "scratch")
        try:
            _run([*RECIPE, buildah("mount", container)])
            buildah("commit", "--quiet", container, base)
        finally:
            buildah("rm", container)
    STAMP.write_text(made_of)


def _pip_secrets(scratch: Path) -> list[str]:
    """This machine's way to a package index, as secrets: no layer and no history holds them."""
    settings: dict[str, str] = {}
    lines = _run([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    # `global.cert='…'` is from a file, `:env:.cert='…'` from the environment, which wins.
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    named = (settings.get("cert"), *(os.environ.get(name) for name in AUTHORITIES))
    authorities = next((path for path in named if path and Path(path).is_file()), None)
    kept = {key: value for key, value in settings.items() if key in PIP_SETTINGS}
    secrets = []
    if authorities:
        kept["cert"] = "/run/secrets/authorities"
        secrets.append(f"--secret=id=authorities,src={authorities}")
    written = scratch / "pip.conf"
    body = [f"{key} = {' '.join(value.split())}" for key, value in kept.items()]
    written.write_text("\n".join(["[global]", *body, ""]))
    return [*secrets, f"--secret=id=pip,src={written}"]


def _image(told: Mapping[str, Any]) -> Image:
    """From what `buildah inspect` tells; an image that runs as root or unwatched is refused."""
    config = told["Docker"]["config"]
    user = str(config.get("User", "")).partition(":")[0]
    if not user.isdecimal() or int(user) == 0:
        # An orchestrator that insists on "not root" cannot tell that from a name.
        raise ImageError(f"its user is {user!r}, and is to be a number other than 0")
    kind, *health = config.get("Healthcheck", {}).get("Test", [""])
    if kind != "CMD":
        raise ImageError("it has no health check that is a command")
    return Image(
        id=f"sha256:{told['FromImageID']}",
        user=int(user),
        command=[*config["Entrypoint"], *config["Cmd"]],
        health=health,
        layers=told["OCIv1"]["rootfs"]["diff_ids"],
    )


def _look_for_build_tools(root: Path) -> None:
    folders = [root / name for name in ("opt/lading/bin", "usr/bin", "usr/local/bin")]
    found = [
        path
        for folder in folders
        for path in sorted(folder.glob("*"))
        if PROGRAMS.fullmatch(path.name)
    ]
    for library in LIBRARIES:
        for prefix in ("opt/lading", "usr", "usr/local"):
            found += root.glob(f"{prefix}/lib/python3*/*-packages/{library}")
    if found:
        raise ImageError(f"it holds {', '.join(str(path.relative_to(root)) for path in found)}")


@contextlib.contextmanager
def _started(
    buildah: Buildah, container: str, image: Image, port: int, log: Path
) -> Iterator[None]:
    """The image's command, as an engine starts it: healthy in the block, orderly ended after it."""
    # Every interface is for a network of the container's own; here it has the machine's.
    settings = ("--env", "LADING_HOST=127.0.0.1", "--env", f"LADING_PORT={port}")
    run = buildah.command("run", "--isolation", "chroot", *settings, container, "--")
    with log.open("w") as output:
        process = subprocess.Popen([*run, *image.command], stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(process, [*run, *image.health], log)
        registry = _innermost(process.pid)
        if registry.uids().effective != image.user:
            raise ImageError(f"it runs as {registry.uids()}, its user is {image.user}")
        yield
        _stop(registry, process, log)
    finally:
        _kill(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], check: list[str], log: Path) -> None:
    with _took("healthy"):
        deadline = time.monotonic() + HEALTHY_LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            if subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return
            time.sleep(0.2)
    raise ImageError(f"its health check does not pass; it said:\n{_end_of(log)}")


def _innermost(pid: int) -> psutil.Process:
    """The process that the wrappers are there for."""
    process = psutil.Process(pid)
    while children := process.children():
        process = children[0]
    return process


def _stop(registry: psutil.Process, process: subprocess.Popen[bytes], log: Path) -> None:
    """End the registry itself: buildah, told to end, kills what it runs."""
    registry.send_signal(signal.SIGTERM)
    try:
        ended = process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"it did not end within {STOP_LIMIT} s of SIGTERM") from error
    if ended != 0:
        raise ImageError(f"SIGTERM ended it with {ended}; it said:\n{_end_of(log)}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of it; buildah first, which then collects its own children."""
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait()


def _there_and_back(buildah: Buildah, image: Image, reference: str, scratch: Path) -> None:
    """Push the image to itself; what comes back is the same manifest, configuration and layers."""
    pushed, back = scratch / "digest", scratch / "back"
    with _took("pushed to itself"):
        way = ("--tls-verify=false", "--compression-format", "gzip", "--digestfile", pushed)
        buildah("push", "--quiet", *way, IMAGE, f"docker://{reference}")
    with _took("given back"):
        source = ("--src-tls-verify=false", f"docker://{reference}")
        _run(["skopeo", "--insecure-policy", "copy", "--quiet", *source, f"dir:{back}"])
    manifest = json.loads((back / "manifest.json").read_bytes())
    came = {
        "manifest": _digest((back / "manifest.json").read_bytes()),
        "configuration": _digest(_blob(back, manifest["config"]["digest"])),
        "layers": [
            _digest(gzip.decompress(_blob(back, layer["digest"]))) for layer in manifest["layers"]
        ],
    }
    went = {
        "manifest": pushed.read_text().strip(),
        "configuration": image.id,
        "layers": image.layers,
    }
    if came != went:
        raise ImageError(f"it is not what came back:\n  pushed {went}\n  pulled {came}")
    sizes = [layer["size"] / 2**20 for layer in manifest["layers"]]
    print(f"image: {sum(sizes):.0f} MiB packed, {sum(sizes[1:]):.0f} MiB of it above the base")


def _blob(folder: Path, digest: str) -> bytes:
    content = (folder / digest.partition(":")[2]).read_bytes()
    if _digest(content) != digest:
        raise ImageError(f"what came back as {digest} is {_digest(content)}")
    return content


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def _took(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"image: {what} in {time.monotonic() - started:.1f} s", flush=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{' '.join(command)} was not done after {PATIENCE} s") from error
    if done.returncode != 0:
        words = (done.stdout + done.stderr)[-4000:]
        raise ImageError(f"{' '.join(command)} ended with {done.returncode}:\n{words}")
    return done.stdout
