"""What can go wrong, in the words of the domain. Nothing here knows HTTP: `web/errors.py` holds the
one table that turns each of these into a status and a code of the distribution spec.

`message` is for a person, `detail` is data for a program. A cause, where there is one, is chained.
"""

from __future__ import annotations

from typing import Any


class LadingError(Exception):
    """The root: every error a caller of the registry may see."""

    def __init__(self, message: str, *, detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        """Return it for an operator: with its cause, which is none of a client's business."""
        cause = self.__cause__
        if cause is None:
            return self.message
        return f"{self.message}: {str(cause).strip() or type(cause).__name__}"


class NameInvalid(LadingError):
    """The text is no repository name (spec, "Pulling manifests")."""


class NameUnknown(LadingError):
    """No such repository."""


class TagInvalid(LadingError):
    """The text is no tag (spec, "Pulling manifests")."""


class DigestInvalid(LadingError):
    """The text is no digest, or its algorithm is not one we compute."""


class DigestMismatch(LadingError):
    """The bytes do not hash to the digest their sender named."""


class ManifestInvalid(LadingError):
    """The body is not what its media type says it is."""


class ManifestUnknown(LadingError):
    """No such manifest, by tag or by digest, in this repository."""


class ManifestBlobUnknown(LadingError):
    """The manifest names content that this repository does not hold."""


class BlobUnknown(LadingError):
    """The repository links no blob of this digest."""


class BlobQuarantined(BlobUnknown):
    """The bytes were found damaged, or gone: until they are pushed again there is no such blob."""


class BlobReferenced(LadingError):
    """A manifest of the repository still needs the blob."""


class UploadUnknown(LadingError):
    """No such upload session: never begun, finished, cancelled or expired."""


class UploadLost(UploadUnknown):
    """What the store had of this upload is gone or not to be trusted: it must be begun anew."""


class UploadInvalid(LadingError):
    """The request is not one this upload can take."""


class UploadOutOfOrder(LadingError):
    """The chunk does not start where the upload stands; `offset` is where that is, in bytes."""

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message, detail={"offset": offset})
        self.offset = offset


class UploadBusy(LadingError):
    """Another request is writing to this upload right now."""


class LeaseTaken(LadingError):
    """Another worker, here or on another replica, is doing this right now."""


class SizeInvalid(LadingError):
    """The body is longer or shorter than what its headers announced."""


class RangeUnsatisfiable(LadingError):
    """No byte of the blob lies in the asked range; `size` is the blob's, in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, detail={"size": size})
        self.size = size


class RangeRefused(LadingError):
    """More ranges, or more bytes in overlapping ranges, than one request may ask for."""


class RequestInvalid(LadingError):
    """A parameter is out of its domain."""


class RouteUnknown(LadingError):
    """Nothing lives at this path."""


class MethodUnsupported(LadingError):
    """The path exists, the method does not; `allow` lists those that do."""

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message, detail={"allow": list(allow)})
        self.allow = allow


class Unauthenticated(LadingError):
    """The request does not say who asks, or not so that we believe it, or for too little.

    `scope` is what a token for it must hold, `reason` what is wrong with the one that came: None,
    `invalid_token` or `insufficient_scope` (RFC 6750 section 3.1). `basic` is where no token can.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: str | None = None,
        reason: str | None = None,
        basic: bool = False,
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.reason = reason
        self.basic = basic


class Denied(LadingError):
    """No rule lets the one who asks do this, and they may know so much."""


class Conflict(LadingError):
    """It would contradict what is on record, which `detail` names."""


class TooManyRequests(LadingError):
    """More than a limit allows; `retry_after` is when to come back, in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BodyTooLarge(LadingError):
    """The manifest, the blob, or the form that asks for a token, is over its limit."""


class BodySlow(LadingError):
    """The body came slower than the configured limit."""


class StorageFull(LadingError):
    """The disk, or the quota on it, has no room for what was sent."""


class Unavailable(LadingError):
    """A store cannot answer now; the same request may succeed later."""


class BlobDamaged(Unavailable):
    """The store itself says that it has no such object, or one of another size: no outage."""


class Fault(LadingError):
    """The registry itself is wrong somewhere: its log has the exception."""


class ClientGone(Exception):
    """The client left before its request was whole. Nobody is there to be answered."""
