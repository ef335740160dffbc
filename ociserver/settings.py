"""Settings: one frozen value, from defaults, a TOML file, `LADING_*` variables and options.

The later of these wins. An unknown key or a bad value is refused with its name and the form it
takes. `docs/operating.md` says what each is for.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ociserver import bucket

_SIZE = re.compile(r"([0-9]{1,15})\s*(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE | re.ASCII)
_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PREFIX = "LADING_"
# Not settings of a registry: the file that has them, and what its clients take (docs/models.md).
_NO_SETTINGS = frozenset(("config", "server", "user", "password", "token", "ca_file"))


class SettingInvalid(Exception):
    """A setting cannot be used; the text names it and the form it takes."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the text of one setting becomes a value; `name` is what an error message shows."""

    name: str
    parse: Callable[[str], Any]
    # What stands for None, where the setting may be without a value.
    nothing: str | None = None

    def shown(self, value: object) -> str:
        """Return the value as somebody would write it."""
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value if value is not None else self.nothing)


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    return match


def _size(text: str) -> int:
    match = _matched(_SIZE, text)
    return int(match[1]) * _UNITS[(match[2] or "B").lower()]


def _seconds(text: str) -> float:
    match = _matched(_SPAN, text)
    seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    if not seconds:
        raise ValueError(text)
    return seconds


def _within(form: Form, low: str, high: str | None = None) -> Form:
    """Return the form for values from `low`, and up to `high`, as somebody would write them."""
    least, most = form.parse(low), form.parse(high) if high else None

    def parse(text: str) -> Any:
        value = form.parse(text)
        if value < least or (most is not None and value > most):
            raise ValueError(text)
        return value

    return Form(f"{form.name}, {low} at least" + (f" and {high} at most" if high else ""), parse)


def _number(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Form(f"a whole number from {low} to {high}", parse)


def _choice(*choices: str) -> Form:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return Form(" or ".join(choices), parse)


def _like(name: str, *patterns: str) -> Form:
    def parse(text: str) -> str:
        if not any(re.fullmatch(pattern, text) for pattern in patterns):
            raise ValueError(text)
        return text

    return Form(name, parse)


def _or_nothing(nothing: str, form: Form) -> Form:
    def parse(text: str) -> Any:
        return None if text.strip() == nothing else form.parse(text)

    return Form(f"{form.name}, or {nothing}", parse, nothing)


def _host(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return text


def _catalog(text: str) -> str:
    if re.fullmatch(r"sqlite:///.+", text):
        return text
    parts = urlsplit(text)
    if parts.scheme != "postgresql" or not text.startswith("postgresql://") or parts.fragment:
        raise ValueError(text)
    _ = parts.port  # raises where there is none, as after an unescaped slash
    return text


def _blobs(text: str) -> str:
    if not re.fullmatch(r"file:///.+", text):
        bucket.Bucket.parse(text)
    return text


def _switch(text: str) -> bool:
    words = {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}
    found = words.get(text.strip().lower())
    if found is None:
        raise ValueError(text)
    return found


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(each.strip()) for each in text.split(","))


CATALOG = Form(
    "sqlite:///PATH (a fourth slash makes the path absolute) or "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE (%2F for a slash in the password)",
    _catalog,
)
BLOBS = Form(f"file:///PATH (a fourth slash makes the path absolute) or {bucket.FORM}", _blobs)
ENDPOINT = _or_nothing("none", _like("http(s)://HOST:PORT", r"https?://[^/?#@]+/?"))
NETWORKS = _or_nothing("none", Form("networks such as 10.0.0.0/8, separated by commas", _networks))
PATH = _or_nothing("none", Form("a path", _host))
SWITCH = Form("on or off", _switch)
SIZE = Form("a size: bytes, or with KiB, MiB or GiB", _size)
SECONDS = Form("a time: seconds, or with ms, s, m, h or d", _seconds)
AT_LEAST_A_BYTE = _within(SIZE, "1B")
ANY_SECONDS = Form(
    "a time, 0 too: seconds, or with ms, s, m, h or d",
    lambda text: 0.0 if text.strip() in ("0", "0s") else _seconds(text),
)


def _setting(default: object, form: Form, help_text: str) -> Any:
    return field(default=default, metadata={"form": form, "help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `lading serve` can be told. Sizes are bytes, times are seconds."""

    host: str = _setting("127.0.0.1", Form("an address", _host), "address to listen on")
    port: int = _setting(5000, _number(0, 65535), "port to listen on; 0 takes a free one")
    workers: int = _setting(1, _number(1, 256), "processes that serve")
    catalog: str = _setting("sqlite:///data/catalog.db", CATALOG, "where the catalog lies")
    blobs: str = _setting("file:///data/blobs", BLOBS, "where blobs lie")
    tls_cert: str | None = _setting(None, PATH, "certificate chain to serve https with, PEM")
    tls_key: str | None = _setting(None, PATH, "its key, where it is in a file of its own, PEM")
    tls_client_ca: str | None = _setting(None, PATH, "who signs certificates of clients, PEM")
    tls_client: str = _setting(
        "optional", _choice("optional", "required"), "a client's certificate, with tls-client-ca"
    )
    rules: str | None = _setting(None, PATH, "file of who may do what")
    open: bool = _setting(
        False, SWITCH, "without rules, let everyone who reaches the address do everything"
    )
    challenge: str = _setting(
        "bearer", _choice("bearer", "basic"), "how clients are asked who they are"
    )
    service: str = _setting(
        "lading",
        _like("1 to 64 of letters, digits, '.', ':', '-'", r"[A-Za-z0-9.:-]{1,64}"),
        "the name that tokens are made out to",
    )
    public_address: str | None = _setting(
        None, ENDPOINT, "our address as clients know it; else each request tells"
    )
    # Clients are told whole seconds.
    token_seconds: float = _setting(300.0, _within(SECONDS, "1s"), "how long a token is good")
    refresh_seconds: float = _setting(30 * 86_400.0, SECONDS, "how long a login can be refreshed")
    key_seconds: float = _setting(30 * 86_400.0, SECONDS, "how long a key signs tokens")
    login_failures: int = _setting(
        10, _number(1, 1_000_000), "failed logins of a name from one address before it must wait"
    )
    login_window: float = _setting(300.0, SECONDS, "for how long it must wait")
    redirect: str = _setting(
        "on", _choice("on", "off"), "send pulls of blobs in S3 there, by signed URLs"
    )
    redirect_from: int = _setting(64 << 10, SIZE, "smaller blobs come from us: one way is shorter")
    redirect_endpoint: str | None = _setting(
        None, ENDPOINT, "the address clients have for the blob store"
    )
    # Signature Version 4 signs no URL for longer than a week.
    redirect_seconds: float = _setting(
        300.0, _within(SECONDS, "1s", "7d"), "how long a signed URL is good"
    )
    redirect_except: tuple[IPv4Network | IPv6Network, ...] | None = _setting(
        None, NETWORKS, "clients that have blobs from us, not by a signed URL"
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] | None = _setting(
        None, NETWORKS, "proxies whose X-Forwarded-For tells the client"
    )
    upload_memory: int = _setting(
        256 << 20, SIZE, "memory for parts on their way to S3, per worker"
    )
    sparse: str = _setting(
        "accept",
        _choice("accept", "refuse"),
        "manifests that name content nobody has pushed: accept with a warning, or refuse",
    )
    request_rate: int | None = _setting(
        None,
        _or_nothing("off", _number(1, 1_000_000)),
        "most requests a second of one address, and of one who logged in, per worker",
    )
    uploads_at_once: int = _setting(
        128, _number(1, 1_000_000), "most uploads under way of one caller, per worker"
    )
    blob_limit: int | None = _setting(
        None, _or_nothing("none", _within(SIZE, "1MiB")), "largest blob taken"
    )
    manifest_limit: int = _setting(4 << 20, _within(SIZE, "1KiB"), "largest manifest taken")
    page_limit: int = _setting(10_000, _number(1, 100_000), "most tags or repositories in a page")
    referrers_limit: int = _setting(1_000, _number(1, 10_000), "most referrers in a page")
    cache: int = _setting(32 << 20, SIZE, "memory for manifests at hand, per worker")
    upload_idle: float = _setting(86_400.0, SECONDS, "end upload sessions untouched this long")
    gc_grace: float = _setting(
        86_400.0, SECONDS, "keep a blob so long after it was pushed or asked for, whoever names it"
    )
    gc_untagged: float | None = _setting(
        None,
        _or_nothing("keep", SECONDS),
        "drop manifests so long after they were pushed, asked for, or lost a tag",
    )
    alias_history: float | None = _setting(
        None,
        _or_nothing("forever", SECONDS),
        "keep for a rollback so long what an alias of a model pointed at",
    )
    gc_delay: float = _setting(900.0, SECONDS, "from the end of a blob's last link to its bytes'")
    gc_interval: float | None = _setting(
        None, _or_nothing("off", SECONDS), "collect garbage this often, one worker in its turn"
    )
    body_seconds: float = _setting(30.0, SECONDS, "a body must bring body-bytes in each such time")
    body_bytes: int = _setting(4 << 10, SIZE, "see body-seconds")
    header_limit: int = _setting(
        160 << 10, _within(SIZE, "8KiB"), "most bytes of headers in a request"
    )
    header_count: int = _setting(128, _number(32, 10_000), "most headers in a request")
    target_limit: int = _setting(
        16 << 10, _within(SIZE, "1KiB"), "longest path with its query, in bytes"
    )
    idle: float = _setting(65.0, SECONDS, "close connections that keep us waiting this long")
    drain: float = _setting(60.0, SECONDS, "after SIGTERM, time for what is under way to end")
    access_log: str = _setting("on", _choice("on", "off"), "a line for every request")
    log_level: str = _setting("info", _choice("debug", "info", "warning", "error"), "least level")


def add_options(parser: argparse.ArgumentParser, names: Container[str] | None = None) -> None:
    """Have the parser take `--config` and an option for each setting, or for those named."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    for one in fields(Settings):
        form = one.metadata["form"]
        if names is None or one.name in names:
            told = f"{one.metadata['help']}: {form.name} (default: {form.shown(one.default)})"
            parser.add_argument(
                f"--{one.name.replace('_', '-')}",
                # A switch may stand alone.
                nargs="?" if form is SWITCH else None,
                const="on" if form is SWITCH else None,
                metavar=one.name.upper(),
                help=told.replace("%", "%%"),
            )


def given(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings of a command whose options `add_options` made. Raises SettingInvalid."""
    known = {one.name for one in fields(Settings)}
    options = {
        key: value for key, value in vars(arguments).items() if key in known and value is not None
    }
    config = arguments.config or environment.get(f"{_PREFIX}CONFIG")
    return load(options, environment, Path(config) if config else None)


def load(options: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> Settings:
    """Return the settings. Raises SettingInvalid."""
    known = {one.name: one.metadata["form"] for one in fields(Settings)}
    values: dict[str, Any] = {}
    for source, entries in (
        (f"{file}: ", _from_file(file)),
        (_PREFIX, _from_environment(environment)),
        ("--", options),
    ):
        for key, text in entries.items():
            shown = f"{source}{key.upper() if source == _PREFIX else key.replace('_', '-')}"
            if key not in known:
                accepted = ", ".join(known)
                raise SettingInvalid(f"{shown} is no setting; known are: {accepted}")
            try:
                values[key] = known[key].parse(text)
            except ValueError as error:
                told = f"{shown}={_without_secrets(text)!r} is not {known[key].name}"
                raise SettingInvalid(told) from error
    return Settings(**values)


def _without_secrets(text: str) -> str:
    """Return the text less what stands where a URL has a name and a password."""
    return re.sub(r"://.*@", "://…@", text, flags=re.DOTALL)


def _from_file(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingInvalid(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise SettingInvalid(f"{file}: {error}") from error
    return {key.replace("-", "_"): _as_text(key, value) for key, value in document.items()}


def _as_text(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str | int | float):
        return str(value)
    raise SettingInvalid(f"{key} is a {type(value).__name__}; every setting is one plain value")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX).lower() not in _NO_SETTINGS
    }
