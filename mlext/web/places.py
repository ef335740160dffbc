"""The model API's part of the endpoint table: each path at both of its doors, `/v1/…` and, for what
is of one repository, `/v2/{name}/_lading/…` (distribution spec, extensions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from mlext.web.aliases import AliasDoors
from mlext.web.asked import parameters
from mlext.web.audit import AuditDoors
from mlext.web.conditions import comparing
from mlext.web.descriptions import DescriptionDoors
from mlext.web.downloads import DownloadDoors
from mlext.web.gates import GateDoors
from mlext.web.lineage import LineageDoors
from mlext.web.paging import PAGE
from mlext.web.runs import RunDoors
from mlext.web.search import SearchDoors
from mlext.web.versions import VersionDoors
from ociserver.auth.rules import Action
from ociserver.extension import Doors, For, Handler, Place

# What they answer, in OpenAPI.
DOCUMENTS = tuple(sorted(Path(__file__).with_name("openapi").glob("*.yaml")))
_LINEAGE = ("direction", "depth", "alias")
# What a GET of each path may ask for. Whatever is not here, and every other method, takes no
# parameter: one that is mistyped is told so, and not lost in silence.
_PARAMETERS: Mapping[str, Sequence[str]] = {
    "/versions/{number}/evaluations": PAGE,
    "/versions/{number}/lineage": _LINEAGE,
    "/versions/{number}/approvals": PAGE,
    "/aliases": PAGE,
    "/aliases/{alias}": ("at",),
    "/aliases/{alias}/history": PAGE,
    "/aliases/{alias}/check": ("version",),
    "/artifacts/{digest}/download": ("ttl",),
    "/v1/lineage": ("node", *_LINEAGE),
    "/v1/artifacts/{digest}/download": ("ttl", "model"),
    "/v1/gates": PAGE,
    "/v1/models": PAGE,
}
# These read their own; and what else an address was given is no part of what was signed.
_READ_THERE = frozenset(
    (
        "/versions",
        "/compare",
        "/v1/versions",
        "/v1/audit",
        "/v1/downloads/{name:path}/blobs/{digest}",
        "/v1/downloads/{name:path}/manifests/{digest}",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """What answers, by the part of the table that it is for."""

    versions: VersionDoors
    descriptions: DescriptionDoors
    aliases: AliasDoors
    runs: RunDoors
    gates: GateDoors
    lineage: LineageDoors
    downloads: DownloadDoors
    audit: AuditDoors
    search: SearchDoors


def places(to: Handlers) -> Sequence[Place]:
    """Return the paths, and the right that each method needs."""
    gate: Doors = {
        "GET": (to.gates.gate, Action.ADMIN),
        "PUT": (to.gates.put, Action.ADMIN),
        "DELETE": (to.gates.drop, Action.ADMIN),
    }
    run: Doors = {"GET": (to.runs.run, For.THE_KNOWN), "PUT": (to.runs.put, For.THE_KNOWN)}
    of_models: Sequence[Place] = (
        (
            "/versions",
            "versions",
            {
                "GET": (to.search.versions, Action.PULL),
                "POST": (to.versions.register, Action.REGISTER),
            },
        ),
        ("/versions/{number}", "model_version", {"GET": (to.versions.version, Action.PULL)}),
        (
            "/versions/{number}/description",
            "description",
            {"GET": (to.descriptions.description, Action.PULL)},
        ),
        (
            "/versions/{number}/evaluations",
            "evaluations",
            {
                "GET": (to.versions.evaluations, Action.PULL),
                "POST": (to.versions.evaluate, Action.REGISTER),
            },
        ),
        (
            "/versions/{number}/lineage",
            "version_lineage",
            {
                "GET": (to.lineage.of_version, Action.PULL),
                "POST": (to.lineage.add, Action.REGISTER),
            },
        ),
        (
            "/versions/{number}/approvals",
            "approvals",
            {
                "GET": (to.aliases.approvals, Action.PULL),
                "POST": (to.aliases.approve, Action.APPROVE),
            },
        ),
        (
            "/aliases",
            "aliases",
            {
                "GET": (to.aliases.aliases, Action.PULL),
                "POST": (to.aliases.move_several, Action.PROMOTE),
            },
        ),
        (
            "/aliases/{alias}",
            "alias",
            {"GET": (to.aliases.alias, Action.PULL), "PUT": (to.aliases.move, Action.PROMOTE)},
        ),
        ("/aliases/{alias}/history", "history", {"GET": (to.aliases.history, Action.PULL)}),
        ("/aliases/{alias}/check", "check", {"GET": (to.aliases.check, Action.PULL)}),
        (
            "/artifacts/{digest}/download",
            "download",
            {"GET": (to.downloads.download, Action.PULL)},
        ),
        ("/compare", "compare", {"GET": (to.search.compare, Action.PULL)}),
        # Last: a model's name may end like any of the others.
        (
            "",
            "model",
            {
                "GET": (to.versions.model, Action.PULL),
                "PATCH": (to.versions.describe, Action.REGISTER),
            },
        ),
    )
    of_none: Sequence[Place] = (
        ("/v1/runs/{run_id:path}", "run", run),
        ("/v1/lineage", "lineage", {"GET": (to.lineage.of_node, For.THE_KNOWN)}),
        (
            "/v1/artifacts/{digest}/download",
            "download",
            {"GET": (to.downloads.download, For.THE_KNOWN)},
        ),
        # The signature in the address is all that these ask for.
        (
            "/v1/downloads/{name:path}/blobs/{digest}",
            "signed_blob",
            {"GET": (to.downloads.blob, For.STRANGERS)},
        ),
        (
            "/v1/downloads/{name:path}/manifests/{digest}",
            "signed_manifest",
            {"GET": (to.downloads.manifest, For.STRANGERS)},
        ),
        ("/v1/audit", "audit", {"GET": (to.audit.events, Action.READ_AUDIT)}),
        ("/v1/gates", "gates", {"GET": (to.gates.gates, Action.ADMIN)}),
        ("/v1/gates/{gate_id:path}", "gate", gate),
        ("/v1/models", "models", {"GET": (to.versions.models, For.THE_KNOWN)}),
        ("/v1/versions", "found", {"GET": (to.search.everywhere, For.THE_KNOWN)}),
    )
    return [*_exact(of_none), *_at_both_doors([*_exact(of_models)])]


def _exact(table: Sequence[Place]) -> Iterator[Place]:
    """Yield the places, which take no parameter but their own, and no condition left uncompared."""
    for path, label, doors in table:
        strict = {
            method: (_strict(path, method, handler), need)
            for method, (handler, need) in doors.items()
        }
        yield path, label, comparing(label, strict)


def _strict(path: str, method: str, handler: Handler) -> Handler:
    if method == "GET" and path in _READ_THERE:
        return handler
    known = _PARAMETERS.get(path, ()) if method == "GET" else ()

    async def answer(request: Request) -> Response:
        parameters(request, known)
        return await handler(request)

    return answer


def _at_both_doors(table: Sequence[Place]) -> Iterator[Place]:
    for path, label, doors in table:
        yield f"/v2/{{name:path}}/_lading{path}", label, doors
    for path, label, doors in table:
        yield f"/v1/models/{{name:path}}{path}", label, doors
