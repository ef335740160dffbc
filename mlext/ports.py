"""What the model registry asks of the catalog. Like every port, the docstrings are the contract
that `tests/contracts/` runs against both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from mlext.pages import Page, Query
from mlext.records import (
    Alias,
    AliasMove,
    Approval,
    Edge,
    Evaluation,
    Metrics,
    Model,
    ModelVersion,
    PlacedVersion,
    Run,
)
from ociserver.ports import CatalogTx, StoredBlob
from ociserver.refs import Digest, RepositoryName, Tag

T = TypeVar("T")


class VersionRows(Protocol):
    """Models, their versions, and what is measured of these."""

    def model(self, name: RepositoryName) -> Model | None:
        """Return the model, None for a repository without versions."""

    def models(self, after: str, limit: int) -> Sequence[Model]:
        """Return models by name, after the one."""

    def models_named(self, names: Collection[RepositoryName]) -> Sequence[Model]:
        """Return those of these that are models, by name."""

    def put_model(self, model: Model) -> None:
        """Record what is said of the model, or make it."""

    def add_version(self, version: ModelVersion, values: Sequence[tuple[str, str, object]]) -> None:
        """Record a version of a number that no version has had, and (kind, key, value) to find it
        by, and let the model's last number be its.
        """

    def version(self, model: RepositoryName, number: int) -> ModelVersion | None:
        """Return the version of that number."""

    def version_of(self, model: RepositoryName, digest: Digest) -> ModelVersion | None:
        """Return the version that this artifact is."""

    def standing(self, repository: RepositoryName, tags: Collection[str]) -> Mapping[str, Digest]:
        """Return where those of these tags point that exist."""

    def add_evaluation(self, model: RepositoryName, evaluation: Evaluation) -> None:
        """Record it; the values that versions are found by become its values."""

    def evaluations(
        self, model: RepositoryName, number: int, limit: int = 1_000
    ) -> Sequence[Evaluation]:
        """Return those of a version, oldest first: the last ones, so many and 4 MiB at most."""

    def evaluations_before(
        self, model: RepositoryName, number: int, last: Evaluation | None, limit: int
    ) -> tuple[Sequence[Evaluation], bool]:
        """Return those before that one or, for None, the last: the latest first, so many and 4 MiB
        at most; and whether there are more.
        """

    def evaluation(
        self, model: RepositoryName, number: int, evaluation_id: str
    ) -> Evaluation | None:
        """Return the evaluation of that version."""

    def metrics(self, model: RepositoryName, number: int) -> Metrics:
        """Return what is known last of each metric, by name: registered, or evaluated since."""


class AliasRows(Protocol):
    """Aliases, where they pointed when, and what stands before they move."""

    def alias(self, model: RepositoryName, name: Tag) -> Alias | None:
        """Return where it points now."""

    def aliases(self, model: RepositoryName, after: str, limit: int) -> Sequence[Alias]:
        """Return so many by name, after the one."""

    def put_alias(self, alias: Alias, from_number: int | None) -> None:
        """Record where it points from now on, and the move that took it there."""

    def alias_moves(
        self, model: RepositoryName, name: Tag, before: int, limit: int
    ) -> Sequence[AliasMove]:
        """Return its moves, the latest first, before that one."""

    def alias_at(self, model: RepositoryName, name: Tag, at: float) -> AliasMove | None:
        """Return the last move that was made until then."""

    def retained(self, model: RepositoryName, digest: Digest, since: float) -> Sequence[str]:
        """Return sentences on which aliases point at the artifact, or at an index that needs it, or
        did so since then.
        """

    def tags_on(self, repository: RepositoryName, digest: Digest) -> Sequence[Tag]:
        """Return the tags that point at the manifest, by name."""

    def has_stood(self, model: RepositoryName, name: Tag, number: int) -> bool:
        """Tell whether the alias ever pointed at the version."""

    def stints(self, model: RepositoryName, number: int) -> Mapping[Tag, float]:
        """Return since when each alias that points at the version does so without a break."""

    def gates(self) -> Mapping[str, bytes]:
        """Return all gates as JSON, by id."""

    def put_gate(self, gate_id: str, body: bytes, by: str, now: float) -> None:
        """Record a gate, in place of that of this id."""

    def drop_gate(self, gate_id: str) -> None:
        """Forget the gate."""

    def put_approval(self, model: RepositoryName, approval: Approval) -> None:
        """Record it, in place of an earlier one of the same person for the same version."""

    def approvals(self, model: RepositoryName, number: int, alias: Tag) -> Sequence[Approval]:
        """Return those of a version under an alias, oldest first."""

    def approvals_after(
        self, model: RepositoryName, number: int, last: tuple[str, str], limit: int
    ) -> Sequence[Approval]:
        """Return so many of a version by alias and by who gave them, after those two."""

    def kept_answer(self, by: str, key: str) -> tuple[str, bytes] | None:
        """Return the request (its hash) and answer that this key of theirs came with before."""

    def keep_answer(self, by: str, key: str, request: str, answer: bytes, now: float) -> None:
        """Record what a request was answered."""

    def drop_answers(self, before: float) -> None:
        """Forget answers from before then."""


class LineageRows(Protocol):
    """Runs, and the edges from each node to what it came from."""

    def run(self, run_id: str) -> Run | None:
        """Return the run."""

    def put_run(self, run: Run) -> None:
        """Record the run as it is now."""

    def run_of(self, model: RepositoryName, number: int) -> Run | None:
        """Return the run that the version is of: the one that it names, if whoever registered it
        put that run, or it was registered after the run was put.

        All that follows knows a run's versions by this.
        """

    def last_naming(self, run_id: str, besides: str) -> float | None:
        """Return when somebody else last registered a version that names the run."""

    def models_of_run(self, run_id: str) -> Sequence[RepositoryName]:
        """Return models with a version of the run, 1,000 at most."""

    def put_edges(
        self, source: str, edges: Sequence[tuple[str, str]], model: str, by: str, now: float
    ) -> None:
        """Record that the node came from others: (kind, node) of each. The same again is none.

        `model` is where it is said, empty where a run says it.
        """

    def add_edge(self, edge: Edge, model: RepositoryName, by: str, now: float) -> bool:
        """Record the edge; False where the same was said there before."""

    def replace_edges(
        self, source: str, edges: Sequence[tuple[str, str]], by: str, now: float
    ) -> None:
        """Record that the run came from these, and from nothing else."""

    def edge_models(self, nodes: Collection[str], *, upstream: bool) -> Sequence[RepositoryName]:
        """Return models, 10,000 at most, by which edges at these nodes may be known.

        That are those where they were said, or with a version of the run that said them.
        `upstream` are edges that start there, otherwise those that lead there.
        """

    def edges(
        self,
        nodes: Collection[str],
        models: Collection[RepositoryName],
        by: str,
        limit: int,
        *,
        upstream: bool,
    ) -> Sequence[Edge]:
        """Return edges at these nodes, in order, as far as these models, or `by`, make them known.

        `by` knows of the runs that they put.
        """

    def node_models(
        self, digests: Collection[str], runs: Collection[str]
    ) -> Sequence[RepositoryName]:
        """Return repositories, 10,000 at most, that hold any of these or have a version of it."""

    def placed_versions(
        self, digests: Collection[str], models: Collection[RepositoryName], limit: int
    ) -> tuple[Sequence[PlacedVersion], bool]:
        """Return the versions, of these models, that the artifacts are, and whether there are more:
        so many, where one counts for each alias that points at it.
        """

    def held_digests(
        self, digests: Collection[str], repositories: Collection[RepositoryName]
    ) -> set[str]:
        """Return which of these any of the repositories holds, as manifest or blob."""

    def known_runs(
        self, runs: Collection[str], models: Collection[RepositoryName], by: str
    ) -> set[str]:
        """Return which of these exist, and `by` put or these models have a version of."""


class DownloadRows(Protocol):
    """What a download is made of, and what signs its address."""

    def manifest_holders(self, digest: Digest, limit: int) -> Sequence[RepositoryName]:
        """Return repositories that hold the manifest, by name, at most so many."""

    def blobs_of(
        self, repository: RepositoryName, digests: Collection[Digest]
    ) -> Mapping[Digest, StoredBlob]:
        """Return those of these that the repository links and that are not in quarantine."""

    def secret(self, name: str) -> bytes | None:
        """Return the secret of that name."""

    def keep_secret(self, name: str, fresh: bytes) -> bytes:
        """Return the secret of that name, which is this one where there was none."""


class SearchRows(Protocol):
    """Versions by what is said of them."""

    def found(self, query: Query) -> Page:
        """Return a page of the query: its limit at most, and at most `BODIES_MAX` bytes of bodies
        where that is more than one. Raises SearchSlow.
        """

    def model_names(self) -> Sequence[RepositoryName]:
        """Return the names of all models."""


class Clock(Protocol):
    """One clock for all replicas of a catalog."""

    def now(self) -> float:
        """Return the time in seconds since the epoch, to the microsecond (what the wire shows).

        It is when the transaction first asked, however often it does: by the clock of the database
        server, or where there is none, of the machine.
        """


class ModelsTx(
    CatalogTx, VersionRows, AliasRows, LineageRows, DownloadRows, SearchRows, Clock, Protocol
):
    """The catalog's transaction with the model registry's rows."""


class ModelsCatalog(Protocol):
    """`ociserver.ports.Catalog`, whose transactions have these rows."""

    async def read(self, work: Callable[[ModelsTx], T]) -> T:
        """Run `work` on one snapshot. Raises Unavailable."""

    async def write(self, work: Callable[[ModelsTx], T], *, in_turn: bool = False) -> T:
        """Run `work` alone, and durably; `in_turn` where it records an event of the audit.

        Raises StorageFull, Unavailable, and what `work` does.
        """

    def generation(self, repository: RepositoryName) -> int:
        """Return a number that differs once something of the repository moved."""
