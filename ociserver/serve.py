"""`lading serve`: read the settings, open the door, say where it is, run the workers."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from ociserver import tls
from ociserver.app import create_app
from ociserver.auth.rulebook import read_rules
from ociserver.auth.rules import RulesInvalid
from ociserver.errors import LadingError
from ociserver.settings import SettingInvalid, Settings, add_options, given
from ociserver.stores import place, prepare_stores
from ociserver.web.protocol import LadingProtocol

_BACKLOG = 2048
_USAGE = 2
_COUNTERS = "lading-metrics-"
# skopeo and podman take a shorter time for this one, and regctl as well.
_LEAST_TOKEN_SECONDS = 60


def main(arguments: Sequence[str]) -> int:
    """Run the registry until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lading serve",
        description="Run the registry.",
        epilog="Each option is also a variable (LADING_PORT) and a key of the TOML file (port).",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        settings = given(options, os.environ)
        _check_access(settings)
        tls.check(settings)
        listener = _listen(settings)
        prepare_stores(settings)
    except (SettingInvalid, LadingError, OSError) as error:
        sys.stderr.write(f"lading serve: {error}\n")
        return _USAGE
    _greet(settings, listener)
    _warn(settings)
    return _run(settings, listener)


def _check_access(settings: Settings) -> None:
    """Refuse rules that cannot be used, and to be open to others without being told to.

    Raises SettingInvalid.
    """
    if settings.rules is not None:
        try:
            read_rules(Path(settings.rules))
        except RulesInvalid as error:
            told = f"the rules in {settings.rules} cannot be used: {error}"
            raise SettingInvalid(told) from error
    elif not settings.open and not _is_loopback(settings.host):
        raise SettingInvalid(
            f"without rules anyone who reaches {settings.host} could do anything: name a rule file "
            "(--rules), listen on 127.0.0.1, or say that you want it so (--open)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(settings: Settings) -> socket.socket:
    """Bind before anything else is done, so that a taken port is the first thing said."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise OSError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from error
    listener.set_inheritable(True)
    return listener


def _greet(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    plain = "" if settings.tls_cert else "--plain-http "
    sys.stdout.write(
        f"Lading listens on {'https' if settings.tls_cert else 'http'}://{address}\n"
        f"  catalog  {place(settings.catalog)}\n"
        f"  blobs    {place(settings.blobs)}\n"
        f"  access   {_access(settings)}\n"
        "Try, in another terminal:\n"
        f"  oras push {plain}{address}/demo/model:first ./my-model\n"
        f"  oras repo tags {plain}{address}/demo/model\n"
        f"  oras pull {plain}{address}/demo/model:first --output ./pulled\n"
    )
    sys.stdout.flush()


def _warn(settings: Settings) -> None:
    """Say what works, and is most likely not meant."""
    if settings.rules is not None and settings.token_seconds < _LEAST_TOKEN_SECONDS:
        sys.stderr.write(
            f"lading serve: --token-seconds={settings.token_seconds:g} is less than "
            f"{_LEAST_TOKEN_SECONDS}: skopeo, podman and regctl use a token for that long in any "
            "case, and fail once it has ended\n"
        )


def _access(settings: Settings) -> str:
    if settings.rules is not None:
        return f"by the rules in {Path(settings.rules).absolute()}"
    if settings.open and not _is_loopback(settings.host):
        return "open: anyone who reaches this address may do anything (--open)"
    return "open to this machine alone, as there are no rules (--rules)"


def _forget_counters() -> None:
    """Remove what a registry that was killed left of its counters."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_COUNTERS}*"):
        owner = folder.name.removeprefix(_COUNTERS).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


class _Workers(Multiprocess):
    def terminate_all(self) -> None:
        """Refuse new connections from here on: as long as we listen they would wait in vain."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _context(settings: Settings, *_: object) -> ssl.SSLContext:
    return tls.context(settings)


def _run(settings: Settings, listener: socket.socket) -> int:
    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        interface="asgi3",
        http=LadingProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        workers=settings.workers,
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=partial(_context, settings) if settings.tls_cert else None,
        # A client that pools connections must not find ours closed under its next request.
        timeout_keep_alive=int(settings.idle),
        timeout_graceful_shutdown=int(settings.drain),
    )
    # uvicorn raises the signal again once it has drained: then, and only then, it ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.workers == 1:
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        return 0 if server.started else 1
    _forget_counters()
    counters = tempfile.mkdtemp(prefix=f"{_COUNTERS}{os.getpid()}-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters
    try:
        _Workers(config, sockets=[listener]).run()
    finally:
        shutil.rmtree(counters, ignore_errors=True)
    return 0
