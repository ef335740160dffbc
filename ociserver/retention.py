"""What stays and what goes: decided here, from the facts that the catalog gives of one row.

A collection asks it before it takes anything, `lading gc --dry-run` asks it and prints the answer:
the two cannot differ. That nothing is taken on facts which no longer hold is the catalog's part:
`ports.CollectionRows` takes rows only by conditions that hold in the transaction which takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ociserver.refs import Digest, RepositoryName, Tag

# Where a row lies among its kind. Only the catalog that gave it can read it.
Place = tuple[int, int | str]
# Before anything was ever touched: where untagged manifests stay, none is old enough.
_NEVER = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """Until when a link must have been renewed, or a manifest touched, to be old enough to go."""

    now: float
    linked_before: float
    untagged_before: float

    @property
    def keeps_untagged(self) -> bool:
        """Whether untagged manifests stay, however old."""
        return self.untagged_before == _NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how long what nobody needs any more is kept, in seconds; `untagged` None: for ever."""

    grace: float
    delay: float
    untagged: float | None

    def horizon(self, now: float) -> Horizon:
        """Return what this means at that time."""
        return Horizon(
            now=now,
            linked_before=now - self.grace,
            untagged_before=_NEVER if self.untagged is None else now - self.untagged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether something stays, and why, in words for a person."""

    stays: bool
    kind: str
    repository: RepositoryName | None
    digest: Digest
    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldManifest:
    """A manifest. A keeper is a manifest that names it as its child, or its subject.

    `keeper` is any that is there, `kept_by` one that stays: tagged, pinned, young, or kept itself.
    """

    place: Place
    repository: RepositoryName
    digest: Digest
    size: int
    touched_at: float
    subject: Digest | None
    tag: Tag | None
    pinned_by: str | None
    keeper: Digest | None
    kept_by: Digest | None

    def goes(self, horizon: Horizon) -> bool:
        """Tell whether nothing keeps it."""
        rooted = self.tag is not None or self.pinned_by is not None or self.kept_by is not None
        return not rooted and self.touched_at < horizon.untagged_before

    def verdict(self, horizon: Horizon) -> Verdict:
        """Say so, and why."""
        return Verdict(
            stays=not self.goes(horizon),
            kind="manifest",
            repository=self.repository,
            digest=self.digest,
            size=self.size,
            why=self._why(horizon),
        )

    def _why(self, horizon: Horizon) -> str:
        if self.tag is not None:
            return f"tagged {self.tag}"
        if self.pinned_by is not None:
            return f"pinned by {self.pinned_by}"
        if self.kept_by is not None:
            refers = self.kept_by == self.subject
            return (
                f"refers to {self.subject}, which stays" if refers else f"named by {self.kept_by}"
            )
        return self._why_by_age(horizon)

    def _why_by_age(self, horizon: Horizon) -> str:
        age = shown_span(horizon.now - self.touched_at)
        if horizon.keeps_untagged:
            return f"untagged for {age}; untagged manifests are kept"
        if not self.goes(horizon):
            left = shown_span(self.touched_at - horizon.untagged_before)
            return f"untagged for {age}, goes in {left}"
        if self.keeper is None:
            return f"untagged for {age}"
        role = "subject" if self.keeper == self.subject else "parent"
        return f"goes with its {role} {self.keeper}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLink:
    """A blob as one repository holds it. `keeper` names it, `kept_by` names it and stays."""

    place: Place
    repository: RepositoryName
    digest: Digest
    size: int
    linked_at: float
    keeper: Digest | None
    kept_by: Digest | None

    def goes(self, horizon: Horizon) -> bool:
        """Tell whether no manifest that stays names it, and none may be on its way."""
        return self.kept_by is None and self.linked_at < horizon.linked_before

    def verdict(self, horizon: Horizon) -> Verdict:
        """Say so, and why."""
        return Verdict(
            stays=not self.goes(horizon),
            kind="link",
            repository=self.repository,
            digest=self.digest,
            size=self.size,
            why=self._why(horizon),
        )

    def _why(self, horizon: Horizon) -> str:
        if self.kept_by is not None:
            return f"named by {self.kept_by}"
        if self.linked_at >= horizon.linked_before:
            age = shown_span(horizon.now - self.linked_at)
            left = shown_span(self.linked_at - horizon.linked_before)
            return f"pushed {age} ago, grace ends in {left}"
        if self.keeper is not None:
            return f"goes with its manifest {self.keeper}"
        return "no manifest names it"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBlob:
    """Bytes. `keeper` links them, `kept_by` links them and its link stays."""

    place: Place
    digest: Digest
    size: int
    keeper: RepositoryName | None
    kept_by: RepositoryName | None

    def goes(self, _horizon: Horizon) -> bool:
        """Tell whether no link to it stays."""
        return self.kept_by is None

    def verdict(self, horizon: Horizon) -> Verdict:
        """Say so, and why."""
        if self.kept_by is not None:
            why = f"linked by {self.kept_by}"
        elif self.keeper is not None:
            why = f"goes with its link in {self.keeper}"
        else:
            why = "no repository links it"
        return Verdict(
            stays=not self.goes(horizon),
            kind="blob",
            repository=None,
            digest=self.digest,
            size=self.size,
            why=why,
        )


def shown_span(seconds: float) -> str:
    """Return a time in its largest whole unit, as a person says it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
