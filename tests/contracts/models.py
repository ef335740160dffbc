"""What `mlext.ports` promises of the catalog: versions, aliases and their past, gates, approvals,
runs and edges, what a download is made of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Alias, Approval, Edge, Evaluation, Model, ModelVersion, Run
from ociserver.refs import RepositoryName, Tag
from tests.contracts.catalog import Make, digest, put, told
from tests.mlext.acting import as_models

MODEL, OTHER = RepositoryName("team/a"), RepositoryName("team/b")
PROD, DEV = Tag("prod"), Tag("dev")
Story = Callable[[ModelsCatalog], Awaitable[None]]


def model(name: RepositoryName = MODEL, **fields: Any) -> Model:
    said: dict[str, Any] = {"last_number": 0, "created_at": 1.5, "updated_at": 1.5}
    return Model(name=name, updated_by="user:ann", **{**said, **fields})


def version(number: int, name: RepositoryName = MODEL, **fields: Any) -> ModelVersion:
    said: dict[str, Any] = {"framework": "pytorch", "run_id": "", "created_at": 2.25}
    said["created_by"] = "robot:ci"
    return ModelVersion(
        model=name,
        number=number,
        id=f"mv_{name}_{number}",
        digest=digest(number),
        body=json.dumps({"version": number, "é": "\u2603"}).encode(),
        **{**said, **fields},
    )


def alias(number: int, moves: int, at: float, name: Tag = PROD) -> Alias:
    return Alias(
        model=MODEL,
        name=name,
        number=number,
        digest=digest(number),
        moves=moves,
        updated_at=at,
        updated_by="user:ann",
        reason=f"move {moves}",
    )


def two_versions(tx: ModelsTx) -> None:
    for name in (MODEL, OTHER):
        tx.put_model(model(name))
        for number in (1, 2):
            tx.add_version(version(number, name), [("metric", "f1", number / 2)])


def moved(tx: ModelsTx, *numbers: int, name: Tag = PROD) -> None:
    """Move an alias there, one after the other, at 10, 20, 30 …"""
    two_versions(tx)
    before = None
    for count, number in enumerate(numbers, 1):
        tx.put_alias(alias(number, count, count * 10.0, name), before)
        before = number


class ModelsContract:
    """What each catalog does alike."""

    def told(self, make: Make, story: Story) -> None:
        told(make, lambda catalog: story(as_models(catalog)))

    def test_a_model_is_what_was_put_last(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            assert await catalog.read(lambda tx: tx.model(MODEL)) is None
            for name in (OTHER, MODEL):
                await catalog.write(lambda tx, name=name: tx.put_model(model(name)))  # type: ignore[misc]
            later = model(owner="é", task="t", description="d", updated_at=3.0, last_number=2)
            await catalog.write(lambda tx: tx.put_model(later))
            assert await catalog.read(lambda tx: tx.model(MODEL)) == later
            listed = await catalog.read(lambda tx: tx.models("", 9))
            assert [each.name for each in listed] == [MODEL, OTHER]
            assert [each.name for each in await catalog.read(lambda tx: tx.models(MODEL, 9))] == [
                OTHER
            ]
            assert len(await catalog.read(lambda tx: tx.models("", 1))) == 1
            asked = [OTHER, RepositoryName("no/model"), MODEL]
            named = await catalog.read(lambda tx: tx.models_named(asked))
            assert [each.name for each in named] == [MODEL, OTHER]
            assert await catalog.read(lambda tx: tx.models_named([])) == []

        self.told(make, story)

    def test_a_version_is_found_by_number_and_by_artifact(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(two_versions)

            def look(tx: ModelsTx) -> None:
                assert tx.version(MODEL, 2) == version(2)
                assert tx.version_of(MODEL, digest(2)) == version(2)
                assert tx.version(MODEL, 3) is None
                assert tx.version_of(RepositoryName("no/model"), digest(2)) is None
                found = tx.model(MODEL)
                assert found is not None
                assert found.last_number == 2

            await catalog.read(look)

        self.told(make, story)

    def test_evaluations_are_kept_in_order(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(two_versions)
            given = [
                Evaluation(id=f"ev_{at}", number=2, at=at, by="user:bob", dataset="d", metrics=said)
                for at, said in ((3.5, {"f1": 0.5}), (1.0, {"loss": 2.0}))
            ]
            for each in given:
                await catalog.write(lambda tx, each=each: tx.add_evaluation(MODEL, each))  # type: ignore[misc]
            assert await catalog.read(lambda tx: tx.evaluations(MODEL, 2)) == given[::-1]
            assert await catalog.read(lambda tx: tx.evaluations(OTHER, 2)) == []
            assert await catalog.read(lambda tx: tx.evaluations(MODEL, 1)) == []

        self.told(make, story)

    def test_evaluations_are_read_back_from_the_last_page_by_page(self, make: Make) -> None:
        # Two at one time: then the id tells which comes first.
        given = [
            Evaluation(id=f"ev_{number}", number=2, at=at, by="b", dataset="", metrics={"m": at})
            for number, at in enumerate((1.0, 2.0, 2.0, 3.0, 4.0))
        ]

        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(two_versions)
            for each in given:
                await catalog.write(lambda tx, each=each: tx.add_evaluation(MODEL, each))  # type: ignore[misc]

            def look(tx: ModelsTx) -> None:
                latest = given[::-1]
                for limit in range(1, 7):
                    last, seen = None, list[Evaluation]()
                    more = True
                    while more:
                        page, more = tx.evaluations_before(MODEL, 2, last, limit)
                        assert len(page) == min(limit, 5 - len(seen))
                        seen += page
                        last = page[-1]
                    assert seen == latest
                assert tx.evaluations_before(MODEL, 2, given[0], 9) == ([], False)
                assert tx.evaluation(MODEL, 2, "ev_3") == given[3]
                for name, number in ((OTHER, 2), (MODEL, 1)):
                    assert tx.evaluation(name, number, "ev_3") is None

            await catalog.read(look)

        self.told(make, story)

    def test_a_page_of_large_evaluations_says_that_there_are_more(self, make: Make) -> None:
        metrics = {f"{number:0240}": 0.5 for number in range(900)}

        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(two_versions)
            for number in range(20):
                each = Evaluation(
                    id=f"ev_{number}", number=1, at=number, by="b", dataset="", metrics=metrics
                )
                await catalog.write(lambda tx, each=each: tx.add_evaluation(MODEL, each))  # type: ignore[misc]
            found, more = await catalog.read(lambda tx: tx.evaluations_before(MODEL, 1, None, 20))
            assert 10 < len(found) < 20
            assert more
            rest = await catalog.read(lambda tx: tx.evaluations_before(MODEL, 1, found[-1], 20))
            assert (len(found) + len(rest[0]), rest[1]) == (20, False)

        self.told(make, story)

    def test_an_alias_stands_where_it_was_put_and_tells_its_past(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(lambda tx: moved(tx, 1, 2, 1))

            def look(tx: ModelsTx) -> None:
                assert tx.alias(MODEL, PROD) == alias(1, 3, 30.0)
                assert tx.alias(MODEL, DEV) is None
                assert tx.alias(OTHER, PROD) is None
                assert list(tx.aliases(MODEL, "", 9)) == [alias(1, 3, 30.0)]
                moves = tx.alias_moves(MODEL, PROD, 99, 9)
                shown = [(each.move, each.from_number, each.number, each.at) for each in moves]
                assert shown == [(3, 2, 1, 30.0), (2, 1, 2, 20.0), (1, None, 1, 10.0)]
                assert [each.move for each in tx.alias_moves(MODEL, PROD, 3, 1)] == [2]

            await catalog.read(look)

        self.told(make, story)

    def test_a_past_moment_has_the_last_move_until_then(self, make: Make) -> None:
        times = {9.999999: None, 10.0: 1, 19.999999: 1, 20.0: 2, 30.0: 1, 1e12: 1}

        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(lambda tx: moved(tx, 1, 2, 1))

            def look(tx: ModelsTx) -> dict[float, int | None]:
                found = {at: tx.alias_at(MODEL, PROD, at) for at in times}
                return {at: move.number if move else None for at, move in found.items()}

            assert await catalog.read(look) == times

        self.told(make, story)

    def test_a_stint_is_without_a_break(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(lambda tx: moved(tx, 1, 2, 1, 1))

            def look(tx: ModelsTx) -> None:
                assert tx.stints(MODEL, 1) == {PROD: 30.0}
                assert tx.stints(MODEL, 2) == {}
                assert tx.stints(OTHER, 1) == {}
                assert tx.has_stood(MODEL, PROD, 2)
                assert not tx.has_stood(MODEL, PROD, 3)
                assert not tx.has_stood(MODEL, DEV, 1)

            await catalog.read(look)

        self.told(make, story)

    def test_what_aliases_need_is_told_for_as_long_as_it_is_kept(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            def change(tx: ModelsTx) -> None:
                for number in (1, 2):
                    put(tx, number, MODEL)
                moved(tx, 1, 2)

            await catalog.write(change)

            def look(tx: ModelsTx) -> None:
                assert len(tx.retained(MODEL, digest(2), 0.0)) == 1
                # It was taken from there at 20.
                assert len(tx.retained(MODEL, digest(1), 20.0)) == 1
                assert tx.retained(MODEL, digest(1), 20.000001) == []
                assert tx.retained(OTHER, digest(2), 0.0) == []

            await catalog.read(look)

        self.told(make, story)

    def test_gates_are_replaced_and_dropped(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            for gate_id, body in (("b", b"{}"), ("a", b"[1]"), ("b", b"[2]")):
                await catalog.write(
                    lambda tx, i=gate_id, b=body: tx.put_gate(i, b, "user:ann", 1.0)  # type: ignore[misc]
                )
            assert await catalog.read(lambda tx: tx.gates()) == {"a": b"[1]", "b": b"[2]"}
            for _ in range(2):
                await catalog.write(lambda tx: tx.drop_gate("a"))
            assert await catalog.read(lambda tx: tx.gates()) == {"b": b"[2]"}

        self.told(make, story)

    def test_an_approval_is_one_of_a_person_for_a_version_under_an_alias(self, make: Make) -> None:
        def approval(by: str, at: float, name: Tag = PROD) -> Approval:
            return Approval(number=1, alias=name, by=by, at=at, comment=f"at {at}")

        async def story(catalog: ModelsCatalog) -> None:
            given = [
                approval("user:bob", 2.0),
                approval("user:ann", 3.0),
                approval("user:bob", 4.0),
                approval("user:bob", 1.0, DEV),
            ]
            for each in given:
                await catalog.write(lambda tx, each=each: tx.put_approval(MODEL, each))  # type: ignore[misc]
            assert await catalog.read(lambda tx: tx.approvals(MODEL, 1, PROD)) == [
                given[1],
                given[2],
            ]
            assert len(await catalog.read(lambda tx: tx.approvals(MODEL, 1, DEV))) == 1
            assert await catalog.read(lambda tx: tx.approvals(OTHER, 1, PROD)) == []

        self.told(make, story)

    def test_approvals_and_aliases_are_read_on_after_the_last(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(two_versions)

            def change(tx: ModelsTx) -> None:
                for at, (name, by) in enumerate((("b", "x"), ("a", "y"), ("a", "x"), ("b", "a"))):
                    given = Approval(number=1, alias=Tag(name), by=by, at=float(at), comment="")
                    tx.put_approval(MODEL, given)
                for name in ("c", "B", "a"):
                    tx.put_alias(alias(1, 1, 1.0, Tag(name)), None)

            await catalog.write(change)

            def look(tx: ModelsTx) -> None:
                order = [("a", "x"), ("a", "y"), ("b", "a"), ("b", "x")]
                for place in range(5):
                    last = order[place - 1] if place else ("", "")
                    found = tx.approvals_after(MODEL, 1, last, 3)
                    assert [(each.alias, each.by) for each in found] == order[place : place + 3]
                assert tx.approvals_after(MODEL, 2, ("", ""), 9) == []
                assert tx.approvals_after(OTHER, 1, ("", ""), 9) == []
                assert [each.name for each in tx.aliases(MODEL, "", 2)] == ["B", "a"]
                assert [each.name for each in tx.aliases(MODEL, "B", 2)] == ["a", "c"]
                assert tx.aliases(OTHER, "", 9) == []

            await catalog.read(look)

        self.told(make, story)

    def test_versions_that_artifacts_are_come_to_an_end(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(lambda tx: moved(tx, 1))
            await catalog.write(lambda tx: tx.put_alias(alias(1, 1, 1.0, DEV), None))

            def placed(tx: ModelsTx, limit: int) -> tuple[list[tuple[str, int, int]], bool]:
                asked = [digest(1), digest(2)], [MODEL, OTHER], limit
                found, more = tx.placed_versions(*asked)
                return [(each.model, each.number, len(each.aliases)) for each in found], more

            def look(tx: ModelsTx) -> None:
                every = [(MODEL, 1, 2), (MODEL, 2, 0), (OTHER, 1, 0), (OTHER, 2, 0)]
                assert placed(tx, 5) == (every, False)
                assert placed(tx, 4) == (every[:3], True)
                assert placed(tx, 1) == ([(MODEL, 1, 1)], True)

            await catalog.read(look)

        self.told(make, story)

    def test_an_answer_is_kept_for_whom_it_was_given_until_it_is_dropped(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            await catalog.write(lambda tx: tx.keep_answer("user:ann", "k", "hash", b"{}", 5.0))
            assert await catalog.read(lambda tx: tx.kept_answer("user:ann", "k")) == ("hash", b"{}")
            assert await catalog.read(lambda tx: tx.kept_answer("user:bob", "k")) is None
            await catalog.write(lambda tx: tx.drop_answers(5.0))
            assert await catalog.read(lambda tx: tx.kept_answer("user:ann", "k")) is not None
            await catalog.write(lambda tx: tx.drop_answers(5.1))
            assert await catalog.read(lambda tx: tx.kept_answer("user:ann", "k")) is None

        self.told(make, story)

    def test_a_run_and_what_it_says_it_came_from_are_replaced_together(self, make: Make) -> None:
        run = Run(id="r", created_by="robot:ci", created_at=1.0, finished_at=None, body={"a": "é"})

        async def story(catalog: ModelsCatalog) -> None:
            assert await catalog.read(lambda tx: tx.run("r")) is None
            await catalog.write(lambda tx: tx.put_run(run))
            ended = replace(run, finished_at=2.5, body={"a": "é", "finished_at": 2.5})
            await catalog.write(lambda tx: tx.put_run(ended))
            assert await catalog.read(lambda tx: tx.run("r")) == ended

            def edges(tx: ModelsTx) -> list[Edge]:
                return list(tx.edges(["run:r"], [], "robot:ci", 9, upstream=True))

            for targets in (("commit:a", "commit:b"), ("commit:c",)):
                said = [("code", each) for each in targets]
                await catalog.write(
                    lambda tx, s=said: tx.replace_edges("run:r", s, "robot:ci", 1.0)  # type: ignore[misc]
                )
            assert await catalog.read(edges) == [Edge("run:r", "code", "commit:c")]

        self.told(make, story)

    def test_a_version_is_of_a_run_of_its_author_or_that_was_there_before(self, make: Make) -> None:
        run = Run(id="r", created_by="robot:ci", created_at=5.0, finished_at=None, body={"a": 1})
        bobs: dict[str, Any] = {"run_id": "r", "created_by": "user:bob"}

        async def story(catalog: ModelsCatalog) -> None:
            def furnish(tx: ModelsTx) -> None:
                for name in (MODEL, OTHER):
                    tx.put_model(model(name))
                tx.add_version(version(1, run_id="r", created_at=4.0), [])
                tx.add_version(version(2, created_at=6.0, **bobs), [])
                tx.add_version(version(1, OTHER, created_at=5.0, **bobs), [])

            await catalog.write(furnish)
            assert await catalog.read(lambda tx: tx.last_naming("r", "robot:ci")) == 6.0
            assert await catalog.read(lambda tx: tx.last_naming("r", "user:bob")) == 4.0
            assert await catalog.read(lambda tx: tx.last_naming("s", "robot:ci")) is None
            assert await catalog.read(lambda tx: tx.run_of(MODEL, 1)) is None
            await catalog.write(lambda tx: tx.put_run(run))

            def seen(tx: ModelsTx) -> list[Run | None]:
                return [tx.run_of(*each) for each in ((MODEL, 1), (MODEL, 2), (OTHER, 1))]

            assert await catalog.read(seen) == [run, run, None]
            assert await catalog.read(lambda tx: tx.models_of_run("r")) == [MODEL]
            for models, known in (([MODEL], {"r"}), ([OTHER], set())):
                found = await catalog.read(lambda tx, m=models: tx.known_runs(["r"], m, "x"))  # type: ignore[misc]
                assert found == known

        self.told(make, story)

    def test_an_edge_is_known_where_it_was_said_and_once(self, make: Make) -> None:
        edge = Edge(digest(1), "base-model", digest(2))

        async def story(catalog: ModelsCatalog) -> None:
            assert await catalog.write(lambda tx: tx.add_edge(edge, MODEL, "user:ann", 1.0))
            assert not await catalog.write(lambda tx: tx.add_edge(edge, MODEL, "user:bob", 2.0))

            def seen(tx: ModelsTx) -> tuple[list[Edge], list[Edge], list[Edge]]:
                return (
                    list(tx.edges([digest(1)], [MODEL], "x", 9, upstream=True)),
                    list(tx.edges([digest(2)], [MODEL], "x", 9, upstream=False)),
                    list(tx.edges([digest(1)], [OTHER], "x", 9, upstream=True)),
                )

            assert await catalog.read(seen) == ([edge], [edge], [])
            found = await catalog.read(lambda tx: tx.edge_models([digest(1)], upstream=True))
            assert list(found) == [MODEL]

        self.told(make, story)

    def test_of_two_who_keep_a_secret_both_have_the_first(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            assert await catalog.write(lambda tx: tx.keep_secret("links", b"\0one")) == b"\0one"
            assert await catalog.write(lambda tx: tx.keep_secret("links", b"two")) == b"\0one"
            assert await catalog.read(lambda tx: tx.secret("links")) == b"\0one"
            assert await catalog.read(lambda tx: tx.secret("other")) is None

        self.told(make, story)

    def test_a_transaction_is_of_one_time_and_a_later_one_of_a_later(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            def asked(tx: ModelsTx) -> list[float]:
                first = tx.now()
                time.sleep(0.002)
                return [first, tx.now()]

            before = time.time()
            one, again = await catalog.write(asked)
            assert one == again == round(one, 6)
            # The database of the tests is on this machine.
            assert before - 0.001 <= one <= time.time() + 0.001
            assert (await catalog.read(asked))[0] > one

        self.told(make, story)

    def test_what_changes_a_model_is_news_of_it(self, make: Make) -> None:
        async def story(catalog: ModelsCatalog) -> None:
            changes: list[Callable[[ModelsTx], object]] = [
                two_versions,
                lambda tx: tx.add_version(version(3), []),
                lambda tx: tx.put_alias(alias(1, 1, 10.0), None),
                lambda tx: tx.put_model(model(owner="x", last_number=3)),
            ]
            for change in changes:
                before = catalog.generation(MODEL)
                await catalog.write(change)
                assert catalog.generation(MODEL) != before

        self.told(make, story)
