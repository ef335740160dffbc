"""Digests computed while bytes stream by, with a state that can be saved and taken up again.

hashlib objects cannot be saved. libcrypto's low-level contexts are plain structs, so a copy of
their bytes is a saved state; OpenSSL keeps the functions exported (deprecated, not removed, in 3.x:
`man SHA256_Init`). The self-test below decides at import whether this machine's libcrypto does what
we rely on; where it does not, hashing works all the same and a resumed upload is read again.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import sys
from dataclasses import dataclass
from typing import Protocol


class Hasher(Protocol):
    """One digest in the making. `update` releases the interpreter lock on large chunks."""

    def update(self, data: bytes | memoryview) -> None:
        """Take in these bytes; a memoryview must be of writable memory."""

    def hexdigest(self) -> str:
        """Return the digest so far, in lower-case hex; more may follow."""

    def state(self) -> bytes | None:
        """Return what `resumed` takes up again, None where this machine cannot save one."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A libcrypto context (openssl/sha.h): its size, block, and where `num` and the digest are."""

    prefix: str
    context_size: int
    block: int
    num_at: int
    digest_size: int


_LAYOUTS = {
    "sha256": _Layout("SHA256", 112, 64, 104, 32),
    "sha512": _Layout("SHA512", 216, 128, 208, 64),
}
_Byte = ctypes.c_char
# A state is only good where it was made: same structs, same byte order.
_MARK = f"libcrypto3-{sys.byteorder}:".encode()


def _libcrypto() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("crypto")
    try:
        library = ctypes.CDLL(name) if name else None
        if library is None or library.OpenSSL_version_num() >> 28 != 3:  # noqa: PLR2004
            return None
        for layout in _LAYOUTS.values():
            getattr(library, f"{layout.prefix}_Update").argtypes = (
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
            )
    except (OSError, AttributeError):
        return None
    return library


_LIBRARY = _libcrypto()


class _SavableHasher:
    """A hasher whose context is ours to copy."""

    def __init__(self, algorithm: str, context: bytes | None = None) -> None:
        self._layout = _LAYOUTS[algorithm]
        self._context = ctypes.create_string_buffer(context or b"", self._layout.context_size)
        self._update = self._function("Update")
        if context is None:
            self._function("Init")(self._context)

    def _function(self, name: str) -> ctypes._NamedFuncPointer:
        return getattr(_LIBRARY, f"{self._layout.prefix}_{name}")  # type: ignore[no-any-return]

    def update(self, data: bytes | memoryview) -> None:
        if len(data):
            pointer = data if isinstance(data, bytes) else ctypes.byref(_Byte.from_buffer(data))
            self._update(self._context, pointer, len(data))

    def hexdigest(self) -> str:
        copy = ctypes.create_string_buffer(self._context.raw, self._layout.context_size)
        digest = ctypes.create_string_buffer(self._layout.digest_size)
        self._function("Final")(digest, copy)
        return digest.raw.hex()

    def state(self) -> bytes | None:
        return _MARK + self._context.raw


class _PlainHasher:
    """hashlib's, where libcrypto's contexts are out of reach."""

    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm)

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> bytes | None:
        return None


def states_can_be_saved() -> bool:
    """Tell whether `Hasher.state` gives anything on this machine."""
    return _LIBRARY is not None


def fresh(algorithm: str) -> Hasher:
    """Return a hasher that has seen nothing; `algorithm` is `sha256` or `sha512`."""
    return _SavableHasher(algorithm) if _LIBRARY else _PlainHasher(algorithm)


def resumed(algorithm: str, state: bytes | None) -> Hasher | None:
    """Return a hasher that goes on from a saved state, None where it was not saved for us."""
    layout = _LAYOUTS[algorithm]
    if _LIBRARY is None or state is None or not state.startswith(_MARK):
        return None
    context = state[len(_MARK) :]
    # `num` counts bytes in the block buffer: a wrong one would write beyond it.
    if len(context) != layout.context_size:
        return None
    if int.from_bytes(context[layout.num_at : layout.num_at + 4], sys.byteorder) >= layout.block:
        return None
    return _SavableHasher(algorithm, context)


def _self_test() -> bool:
    for algorithm in _LAYOUTS:
        first = _SavableHasher(algorithm)
        first.update(b"lading" * 50)
        second = resumed(algorithm, first.state())
        if second is None:
            return False
        second.update(memoryview(bytearray(b"cargo" * 50)))
        expected = hashlib.new(algorithm, b"lading" * 50 + b"cargo" * 50).hexdigest()
        if second.hexdigest() != expected:
            return False
    return True


if _LIBRARY is not None and not _self_test():
    _LIBRARY = None
