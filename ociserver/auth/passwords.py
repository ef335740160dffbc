"""Secrets and their hashes. Slow hashes run on a small pool of their own, a few at a time: a flood
of logins costs so much memory and no more, and holds up nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from concurrent.futures import ThreadPoolExecutor

import argon2
import bcrypt
from argon2.exceptions import Argon2Error, InvalidHashError

from ociserver.errors import TooManyRequests
from ociserver.threads import in_thread

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
_ARGON2 = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_THREADS = 2
# As many as the pool works off while a client waits.
_WAITING = 64
_RETRY_SECONDS = 2
_ROBOT_KEY = "sha256:"
# What is slower, or takes more memory, would hold up everyone's logins for a second and more.
_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}")
_ARGON2_KIB = 256 * 1024
_ARGON2_PASSES = 16
_ARGON2_LANES = 16
# bcrypt reads no more, and from version 5 refuses it.
_BCRYPT_BYTES = 72
# Of 256 random bits: nobody needs slowness against guessing these.
_ROBOT_BYTES = 32
_ROBOT_PREFIX = "lading_"


def new_robot_key() -> str:
    """Return a fresh key, to be shown once."""
    return _ROBOT_PREFIX + secrets.token_urlsafe(_ROBOT_BYTES)


def robot_hash(key: str) -> str:
    """Return what is stored of a robot's key."""
    return _ROBOT_KEY + hashlib.sha256(key.encode()).hexdigest()


def password_hash(password: str) -> str:
    """Return what is stored of a password. Slow (tens of milliseconds)."""
    return _ARGON2.hash(password)


def is_hash(text: str) -> bool:
    """Tell whether `Passwords.match` can read the stored text, argon2 or bcrypt, in good time."""
    if not text.startswith("$argon2"):
        return _BCRYPT.fullmatch(text) is not None
    try:
        found = argon2.extract_parameters(text)
    except InvalidHashError:
        return False
    return (
        found.memory_cost <= _ARGON2_KIB
        and found.time_cost <= _ARGON2_PASSES
        and found.parallelism <= _ARGON2_LANES
    )


class Passwords:
    """Compares secrets with stored hashes."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        # What a name that nobody has is compared with: it must take as long.
        self._nobody = _ARGON2.hash(secrets.token_urlsafe())

    async def match(self, secret: str, stored: str | None) -> bool:
        """Tell whether this is the secret; None is nobody's, and takes as long.

        Raises TooManyRequests while too many wait.
        """
        if stored is not None and stored.startswith(_ROBOT_KEY):
            if hmac.compare_digest(robot_hash(secret), stored):
                return True
            stored = None  # a robot's name is refused no faster than nobody's
        if self._waiting >= _WAITING:
            raise TooManyRequests("too many logins at once", retry_after=_RETRY_SECONDS)
        self._waiting += 1
        try:
            found = await in_thread(self._pool, _matches, secret, stored or self._nobody)
        finally:
            self._waiting -= 1
        return found and stored is not None

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown()


def _matches(secret: str, stored: str) -> bool:
    data = secret.encode()
    try:
        if stored.startswith("$argon2"):
            return _ARGON2.verify(stored, data)
        # htpasswd cuts off what bcrypt does not read.
        return bcrypt.checkpw(data[:_BCRYPT_BYTES], stored.encode())
    except (Argon2Error, InvalidHashError, ValueError):
        return False
