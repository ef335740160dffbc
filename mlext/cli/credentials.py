"""Which registry a command speaks to, and as whom.

The first of these that says who: `--user` (its password from `--password-stdin`, LADING_PASSWORD
or a prompt), LADING_TOKEN, LADING_USER (likewise LADING_PASSWORD or a prompt), what `docker login`,
`oras login` or `podman login` kept for that host in docker's config.json. None: one is anyone.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import ipaddress
import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mlext.cli.client import USAGE, Address, CommandFailed

SERVER = "http://127.0.0.1:5000"
_SECONDS = 60.0
# No password or key is longer; a file given by mistake is not read whole.
_SECRET_CHARACTERS = 64 * 1024


def address_of(options: Namespace, environment: Mapping[str, str]) -> Address:
    """Return where the registry is, and the header that says who asks. Raises CommandFailed."""
    given = vars(options)
    url = _url(given.get("server") or environment.get("LADING_SERVER") or SERVER)
    return Address(
        url=url.geturl(),
        authorization=_authorization(given, environment, url),
        ca_file=given.get("ca_file") or environment.get("LADING_CA_FILE") or None,
        client_files=_client_files(given),
        seconds=given.get("timeout", _SECONDS),
        is_loopback=_is_loopback(url.hostname or ""),
    )


def _client_files(given: Mapping[str, Any]) -> tuple[str, str | None] | None:
    if "client_cert" in given:
        return given["client_cert"], given.get("client_key")
    if "client_key" in given:
        raise CommandFailed("--client-key goes with --client-cert", USAGE)
    return None


def _url(text: str) -> SplitResult:
    # As docker does: only this machine is spoken to in the clear without being told so.
    if "://" not in text:
        host = urlsplit(f"//{text}").hostname or ""
        text = f"{'http' if _is_loopback(host) else 'https'}://{text}"
    try:
        url = urlsplit(text.rstrip("/"))
        port_is_one = url.port is None or url.port > 0
    except ValueError:
        port_is_one = False
    if not port_is_one or url.scheme not in {"http", "https"} or not url.hostname:
        raise CommandFailed("the server is no address such as https://registry.example.com", USAGE)
    if "@" in url.netloc or url.query or url.fragment:
        raise CommandFailed("the server is an address alone: a name goes with --user", USAGE)
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorization(
    given: Mapping[str, Any], environment: Mapping[str, str], url: SplitResult
) -> str | None:
    if user := given.get("user"):
        return _basic(user, _password(user, environment, from_stdin="password_stdin" in given))
    if "password_stdin" in given:
        raise CommandFailed("--password-stdin goes with --user", USAGE)
    if token := environment.get("LADING_TOKEN", "").strip():
        return _bearer(token, "LADING_TOKEN")
    if user := environment.get("LADING_USER"):
        return _basic(user, _password(user, environment, from_stdin=False))
    return _of_docker(environment, url)


def _password(user: str, environment: Mapping[str, str], *, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.read(_SECRET_CHARACTERS).removesuffix("\n").removesuffix("\r")
    if password := environment.get("LADING_PASSWORD"):
        return password
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"no password for {user}: set LADING_PASSWORD, or --password-stdin", USAGE
        )
    return getpass.getpass(f"Password of {user}: ")


def _bearer(token: str, whence: str) -> str:
    # Told apart here: who fails to send it as a header says what it is.
    if not all("!" <= each <= "~" for each in token):
        raise CommandFailed(f"{whence} is no token", USAGE)
    return f"Bearer {token}"


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _of_docker(environment: Mapping[str, str], url: SplitResult) -> str | None:
    folder = environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "~")) / ".docker"
    file = (Path(folder) / "config.json").expanduser()
    try:
        kept = json.loads(file.read_bytes())["auths"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(kept, dict):
        return None
    for name, entry in kept.items():
        if _host_of(name).lower() == url.netloc.lower() and isinstance(entry, dict):
            return _of_entry(entry, str(file))
    return None


def _host_of(name: str) -> str:
    """Return host and port of a key: older logins kept an address there, some with a path."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def _of_entry(entry: Mapping[str, Any], whence: str) -> str | None:
    if token := entry.get("registrytoken"):
        return _bearer(str(token), f"registrytoken in {whence}")
    if entry.get("username"):
        return _basic(str(entry["username"]), str(entry.get("password", "")))
    try:
        user, _, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    # A helper keeps the secret elsewhere, and an identity token is none that this API takes.
    return _basic(user, password) if user and password else None
