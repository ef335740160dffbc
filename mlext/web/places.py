"""The model API's part of the endpoint table: each path at both of its doors, `/v1/…` and, for what
is of one repository, `/v2/{name}/_lading/…` (distribution spec, extensions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlext.web.aliases import AliasDoors
from mlext.web.downloads import DownloadDoors
from mlext.web.gates import GateDoors
from mlext.web.lineage import LineageDoors
from mlext.web.runs import RunDoors
from mlext.web.versions import VersionDoors
from ociserver.auth.rules import Action
from ociserver.extension import Doors, For, Place


def places(  # noqa: PLR0913, PLR0917 - one for each part of the table
    versions: VersionDoors,
    aliases: AliasDoors,
    runs: RunDoors,
    gates: GateDoors,
    lineage: LineageDoors,
    downloads: DownloadDoors,
) -> Sequence[Place]:
    """Return the paths, and the right that each method needs."""
    gate: Doors = {
        "GET": (gates.gate, Action.ADMIN),
        "PUT": (gates.put, Action.ADMIN),
        "DELETE": (gates.drop, Action.ADMIN),
    }
    run: Doors = {"GET": (runs.run, For.THE_KNOWN), "PUT": (runs.put, For.THE_KNOWN)}
    of_models: Sequence[tuple[str, str, Doors]] = (
        (
            "/versions",
            "versions",
            {"POST": (versions.register, Action.REGISTER)},
        ),
        ("/versions/{number}", "model_version", {"GET": (versions.version, Action.PULL)}),
        (
            "/versions/{number}/evaluations",
            "evaluations",
            {
                "GET": (versions.evaluations, Action.PULL),
                "POST": (versions.evaluate, Action.REGISTER),
            },
        ),
        (
            "/versions/{number}/lineage",
            "version_lineage",
            {"GET": (lineage.of_version, Action.PULL), "POST": (lineage.add, Action.REGISTER)},
        ),
        (
            "/versions/{number}/approvals",
            "approvals",
            {"GET": (aliases.approvals, Action.PULL), "POST": (aliases.approve, Action.APPROVE)},
        ),
        (
            "/aliases",
            "aliases",
            {
                "GET": (aliases.aliases, Action.PULL),
                "POST": (aliases.move_several, Action.PROMOTE),
            },
        ),
        (
            "/aliases/{alias}",
            "alias",
            {"GET": (aliases.alias, Action.PULL), "PUT": (aliases.move, Action.PROMOTE)},
        ),
        ("/aliases/{alias}/history", "history", {"GET": (aliases.history, Action.PULL)}),
        ("/aliases/{alias}/check", "check", {"GET": (aliases.check, Action.PULL)}),
        (
            "/artifacts/{digest}/download",
            "download",
            {"GET": (downloads.download, Action.PULL)},
        ),
        # Last: a model's name may end like any of the others.
        (
            "",
            "model",
            {"GET": (versions.model, Action.PULL), "PATCH": (versions.describe, Action.REGISTER)},
        ),
    )
    return [
        ("/v1/runs/{run_id:path}", "run", run),
        ("/v1/lineage", "lineage", {"GET": (lineage.of_node, For.THE_KNOWN)}),
        (
            "/v1/artifacts/{digest}/download",
            "download",
            {"GET": (downloads.download, For.THE_KNOWN)},
        ),
        # The signature in the address is all that these ask for.
        (
            "/v1/downloads/{name:path}/blobs/{digest}",
            "signed_blob",
            {"GET": (downloads.blob, For.STRANGERS)},
        ),
        (
            "/v1/downloads/{name:path}/manifests/{digest}",
            "signed_manifest",
            {"GET": (downloads.manifest, For.STRANGERS)},
        ),
        ("/v1/gates", "gates", {"GET": (gates.gates, Action.ADMIN)}),
        ("/v1/gates/{gate_id:path}", "gate", gate),
        ("/v1/models", "models", {"GET": (versions.models, For.THE_KNOWN)}),
        *_at_both_doors(of_models),
    ]


def _at_both_doors(table: Sequence[tuple[str, str, Doors]]) -> Iterator[Place]:
    for path, label, doors in table:
        yield f"/v2/{{name:path}}/_lading{path}", label, doors
    for path, label, doors in table:
        yield f"/v1/models/{{name:path}}{path}", label, doors
