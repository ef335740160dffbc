"""TLS in the process: certificates that are replaced on disk are taken up without a restart."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from ociserver.settings import SettingInvalid, Settings

log = logging.getLogger("lading")

_Stamp = tuple[tuple[int, int], ...]


def check(settings: Settings) -> None:
    """Raise SettingInvalid unless the files that are named can be used."""
    if settings.tls_cert is None and (settings.tls_key or settings.tls_client_ca):
        raise SettingInvalid("--tls-key and --tls-client-ca go with --tls-cert")
    if settings.tls_client == "required" and settings.tls_client_ca is None:
        raise SettingInvalid("--tls-client=required goes with --tls-client-ca: who signs them?")
    if settings.tls_cert is None:
        return
    try:
        context(settings)
    except OSError as error:  # ssl.SSLError is one
        files = f"{settings.tls_cert}, {settings.tls_key or 'its key'}"
        raise SettingInvalid(f"the certificate in {files} cannot be used: {error}") from error


def context(settings: Settings) -> ssl.SSLContext:
    """Return the context of every connection. Raises OSError.

    At each handshake the files are looked at; the next one has what they hold.
    """
    assert settings.tls_cert is not None  # noqa: S101 - `check` has seen to it
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    made.load_cert_chain(settings.tls_cert, settings.tls_key)
    if settings.tls_client_ca is not None:
        made.load_verify_locations(settings.tls_client_ca)
        asked = settings.tls_client == "required"
        made.verify_mode = ssl.CERT_REQUIRED if asked else ssl.CERT_OPTIONAL
    files = [Path(each) for each in (settings.tls_cert, settings.tls_key) if each is not None]
    seen = _stamp(files)

    def look(_connection: Any, _name: str | None, own: ssl.SSLContext) -> None:
        nonlocal seen
        if (stamp := _stamp(files)) == seen:
            return
        seen = stamp
        try:
            # First aside: a certificate that does not fit its key must not take half of ours.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                files[0], files[1] if len(files) > 1 else None
            )
            own.load_cert_chain(files[0], files[1] if len(files) > 1 else None)
        except OSError as error:
            fields = {"file": str(files[0]), "reason": str(error)}
            log.warning("the new certificate cannot be used", extra={"fields": fields})
        else:
            log.info("a new certificate is in use", extra={"fields": {"file": str(files[0])}})

    made.sni_callback = look
    return made


def _stamp(files: list[Path]) -> _Stamp | None:
    try:
        return tuple((each.stat().st_mtime_ns, each.stat().st_ino) for each in files)
    except OSError:
        return None
