"""https in the process: its certificate, the next one, and those of clients."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.serving import Served, push_blob
from tests.test_cli import refusal
from tests.wire.build import MIB, noise
from tests.wire.raw import eventually

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Signs certificates into a folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def made(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        built = _builder(name, name, key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        certificate = built.sign(key, hashes.SHA256())
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(folder, key, certificate)

    def issue(self, name: str) -> int:
        """Write NAME.pem and NAME.key, in place of what was there; return the serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = _builder(subject, self.certificate.subject, key).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        certificate = built.sign(self.key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for suffix, data in (("key", private), ("pem", certificate.public_bytes(Encoding.PEM))):
            fresh = self.folder / f"{name}.{suffix}.new"
            fresh.write_bytes(data)
            fresh.rename(self.folder / f"{name}.{suffix}")
        return certificate.serial_number

    def trust(self) -> ssl.SSLContext:
        """Return what a client trusts."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.made(tmp_path / "pki")


@pytest.fixture(params=[1, 2])
def served(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path
) -> Iterator[Served]:
    authority.issue("server")
    options = (
        *("--tls-cert", str(authority.folder / "server.pem")),
        *("--tls-key", str(authority.folder / "server.key")),
    )
    served = Served(
        tmp_path / "data", options=options, workers=request.param, trust=authority.trust()
    )
    yield served.start()
    served.stop()


def shown(served: Served, authority: Authority) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    text = ssl.get_server_certificate(
        ("127.0.0.1", served.port), ca_certs=str(authority.folder / "ca.pem")
    )
    return x509.load_pem_x509_certificate(text.encode()).serial_number


def test_blobs_go_both_ways_and_plain_http_gets_nowhere(served: Served) -> None:
    body = noise(5 * MIB)
    with served.client() as client:
        digest = push_blob(client, "a", body)
        found = client.get(f"/v2/a/blobs/{digest}", headers={"range": "bytes=1000-"})
        assert found.content == body[1000:]
        assert client.get(f"/v2/a/blobs/{digest}").content == body
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{served.host}/v2/", timeout=5)


def test_a_certificate_that_is_replaced_is_taken_up(served: Served, authority: Authority) -> None:
    with served.client() as client:
        assert client.get("/v2/").status_code == 200
        for _ in range(2):
            number = authority.issue("server")
            eventually(lambda: shown(served, authority) == number)  # noqa: B023 - now
        (authority.folder / "server.pem").write_text("no certificate")
        eventually(lambda: shown(served, authority) == number and "cannot be used" in served.log)
        number = authority.issue("server")
        eventually(lambda: shown(served, authority) == number)
        # Connections from before go on.
        assert client.get("/v2/").status_code == 200


@pytest.mark.parametrize("asked", ["optional", "required"])
def test_certificates_of_clients_are_checked_where_a_signer_is_named(
    authority: Authority, tmp_path: Path, asked: str
) -> None:
    stranger = Authority.made(tmp_path / "stranger")
    for each, name in ((authority, "server"), (authority, "node"), (stranger, "node")):
        each.issue(name)
    folder = authority.folder
    known, unknown = authority.trust(), authority.trust()
    known.load_cert_chain(folder / "node.pem", folder / "node.key")
    unknown.load_cert_chain(stranger.folder / "node.pem", stranger.folder / "node.key")
    options = (
        *("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")),
        *("--tls-client-ca", str(folder / "ca.pem"), "--tls-client", asked),
    )
    served = Served(tmp_path / "data", options=options, trust=known)
    try:
        served.start()

        def is_let_in(trust: ssl.SSLContext) -> bool:
            try:
                return httpx.get(f"{served.url}/v2/", verify=trust, timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        assert is_let_in(known)
        assert not is_let_in(unknown)
        assert is_let_in(authority.trust()) is (asked == "optional")
    finally:
        served.stop()


def test_a_certificate_that_cannot_be_used_is_refused_at_start(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue("one")
    authority.issue("two")
    one, other = str(authority.folder / "one.pem"), str(authority.folder / "two.key")
    assert "cannot be used" in refusal("--tls-cert", one, "--tls-key", other, cwd=tmp_path)
    assert "cannot be used" in refusal("--tls-cert", "none.pem", cwd=tmp_path)
    assert "go with --tls-cert" in refusal("--tls-key", other, cwd=tmp_path)
    # Nobody would be asked for one.
    for given in ((), ("--tls-cert", one, "--tls-key", one.replace(".pem", ".key"))):
        said = refusal("--tls-client", "required", *given, cwd=tmp_path)
        assert "goes with --tls-client-ca" in said
