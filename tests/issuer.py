"""A small OpenID Connect provider on loopback: it shows keys and signs what it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

AUDIENCE = "lading.test"
_KEY = rsa.generate_private_key(65537, 2048)


class Issuer:
    """The provider. `documents` are what it answers with, by path; `asked` what it was asked."""

    def __init__(self) -> None:
        self.key = _KEY
        self.key_id = "k1"
        self.url = ""
        self.documents: dict[str, object] = {}
        self.asked: list[str] = []

    def show(self, key_id: str = "k1") -> None:
        """Show the key under this id."""
        self.key_id = key_id
        public = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
            },
            "/keys": {"keys": [{**public, "kid": key_id, "alg": "RS256", "use": "sig"}]},
        }

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return what a token of it says; None leaves a claim out."""
        now = int(time.time())
        made = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "repo:acme/train",
            "iat": now,
            "exp": now + 300,
            "repository": "acme/train",
            "ref": "refs/heads/main",
        }
        return {key: value for key, value in (made | changed).items() if value is not None}

    def token(self, **changed: Any) -> str:
        """Return a token with these claims."""
        headers = {"kid": self.key_id}
        return jwt.encode(self.claims(**changed), self.key, "RS256", headers=headers)

    def table(self, more: str = "") -> str:
        """Return its entry in a rule file."""
        return f'[[issuer]]\nname = "ci"\nurl = "{self.url}"\naudience = "{AUDIENCE}"\n{more}\n'


@contextlib.contextmanager
def issuing() -> Iterator[Issuer]:
    """Give a provider that answers."""
    issuer = Issuer()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            document = issuer.documents.get(self.path)
            body = json.dumps(document).encode()
            self.send_response(200 if document is not None else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            issuer.url = f"http://127.0.0.1:{answering.server_port}"
            issuer.show()
            yield issuer
        finally:
            answering.shutdown()
            thread.join()
