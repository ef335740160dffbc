"""Answers that are written out once and given again and again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Fields = Sequence[tuple[bytes, bytes]]


class Rendered:
    """A document and its header fields, rendered once for every request that asks for it.

    Whoever may pull from the repository may have it; `endpoint` names it in the metrics. A 304 has
    `validators` alone, of which one is the ETag.
    """

    __slots__ = (
        "body",
        "endpoint",
        "etag",
        "fields",
        "head",
        "repository",
        "validator_head",
        "validators",
    )

    def __init__(  # noqa: PLR0913 - an answer, each part by its name
        self,
        *,
        endpoint: str,
        repository: str,
        etag: str,
        validators: Fields,
        media_type: str,
        body: bytes,
    ) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self.etag = etag
        self.validators = validators
        self.fields: Fields = [
            *validators,
            (b"content-type", media_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        self.validator_head, self.head = (
            b"".join(b"%s: %s\r\n" % field for field in fields)
            for fields in (self.validators, self.fields)
        )
        self.body = body
