"""Where blobs lie in S3, as `s3://BUCKET/PREFIX?endpoint=…` says it. Pure.

What the URL leaves out comes from where every AWS tool takes it: variables, profile, web identity,
instance metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

FORM = "s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME&addressing=path|virtual"
# S3 user guide, "Bucket naming rules".
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(?:/[A-Za-z0-9!_.*'()-]+)*")
_ENDPOINT = re.compile(r"https?://[^/?#]+/?")
_OPTIONS = frozenset({"endpoint", "region", "profile", "addressing"})
_ADDRESSING = {"": "auto", "path": "path", "virtual": "virtual"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A place in S3. `prefix` ends with a slash unless it is empty; None is for AWS to say."""

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: str = "auto"
    access_key: str | None = None
    secret_key: str | None = None

    @classmethod
    def parse(cls, url: str) -> Bucket:
        """Return the place that the URL names. Raises ValueError."""
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        options = dict(pairs)
        name, prefix = parts.hostname or "", parts.path.strip("/")
        endpoint = options.get("endpoint") or None
        wrong = (
            parts.scheme != "s3"
            or parts.fragment
            or parts.netloc.rpartition("@")[2] != name
            or not _BUCKET.fullmatch(name)
            or (prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & {*prefix.split("/")}))
            or len(pairs) != len(options)
            or not options.keys() <= _OPTIONS
            or (endpoint is not None and not _ENDPOINT.fullmatch(endpoint))
            or options.get("addressing", "") not in _ADDRESSING
            or (parts.username is None) != (parts.password is None)
        )
        if wrong:
            raise ValueError(url)
        # A server of one's own rarely answers to BUCKET.HOST.
        addressing = options.get("addressing") or ("path" if endpoint else "")
        return cls(
            name=name,
            prefix=f"{prefix}/" if prefix else "",
            endpoint=endpoint,
            region=options.get("region") or None,
            profile=options.get("profile") or None,
            addressing=_ADDRESSING[addressing],
            access_key=unquote(parts.username) if parts.username else None,
            secret_key=unquote(parts.password) if parts.password else None,
        )
