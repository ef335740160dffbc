"""What can go wrong with models, each a kind of what the registry knows: `web/errors.py` of the
registry turns them into statuses, and their names into the codes of problem documents.
"""

from __future__ import annotations

from ociserver.errors import Conflict, Denied, NameUnknown, RequestInvalid


class DocumentInvalid(RequestInvalid):
    """The body, or a part of it that the message names, is not what the call takes."""


class ConditionRefused(RequestInvalid):
    """The request has a condition that the call does not compare: it would be done regardless."""


class ModelUnknown(NameUnknown):
    """The repository has no version, so it is no model."""


class VersionUnknown(NameUnknown):
    """The model has no version of that number."""


class VersionExists(Conflict):
    """The artifact is a version already: `detail` has its `version` and `version_id`."""


class RunUnknown(NameUnknown):
    """There is no such run that the caller may know."""


class RunFrozen(Conflict):
    """The run has finished: what it was stays."""


class AliasUnknown(NameUnknown):
    """The model has no such alias, or had none then."""


class AliasElsewhere(Conflict):
    """The alias does not stand where the caller expected: `detail` says where it stands."""


class TagProtected(Conflict):
    """The tag is an alias, or a version's, and does not move that way."""


class Retained(Conflict):
    """Something on record needs the manifest: `detail` lists what."""


class GateUnsatisfied(Denied):
    """The gate of the alias has conditions that are not met: `detail` is the whole verdict."""


class ArtifactUnknown(NameUnknown):
    """There is no such artifact that the caller may pull."""


class LinkInvalid(Denied):
    """The download's address is not one that was given out: something in it was changed."""


class LinkExpired(Denied):
    """The download's address was given out, and its time is over."""


class KeyReused(Conflict):
    """The Idempotency-Key came before, with another request."""


class GateUnknown(NameUnknown):
    """There is no such gate."""


class GatesFull(Conflict):
    """There are as many gates as there may be."""


class FilterInvalid(DocumentInvalid):
    """The filter is no sentence of its language (`mlext/filters.py`).

    `detail` has where, `line` and `column` from 1, `offset` from 0, and `context`: the line with a
    caret below the place.
    """


class CursorInvalid(DocumentInvalid):
    """The cursor is none that was given out for this search."""


class SearchSlow(DocumentInvalid):
    """The search takes longer than one may: a narrower filter is needed."""
