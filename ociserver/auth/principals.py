"""Who asks. Pure: a principal is a value, wherever it was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Of people and robots alike: a Basic user-id has no colon (RFC 7617 section 2), so the name alone
# must tell which of them it is.
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}")
NAME_FORM = "1 to 128 of a-z, 0-9, '.', '_', '@', '+', '-', beginning with a letter or digit"


@dataclass(frozen=True, slots=True)
class Principal:
    """A person, a robot, a workload, or nobody in particular.

    `name` is what rules and the audit call it (`user:ann`); `claims` are those of a workload's
    token, `groups` what its issuer or the catalog says it belongs to.
    """

    name: str
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody said who they are."""
        return self == ANYONE


ANYONE = Principal("anyone")


def is_name(text: str) -> bool:
    """Tell whether a person, robot or group may have this name."""
    return _NAME.fullmatch(text) is not None
