# What is measured of a version later: what is known last is one thing, whoever asks.
from __future__ import annotations

import json

import pytest

from mlext import versions
from mlext.acts import Act
from mlext.errors import DocumentInvalid
from mlext.filters import parse
from mlext.pages import OF_ONE, Query
from mlext.ports import ModelsTx
from mlext.records import Evaluation
from ociserver.admission import Author
from tests.mlext.population import MODELS, Shelf

MODEL = MODELS[0]
ANN = Author(name="user:ann", may=lambda *_: True, may_somewhere=lambda _: True)


def evaluate(shelved: Shelf, number: int, at: float, **metrics: float) -> Evaluation:
    def work(tx: ModelsTx) -> Evaluation:
        return versions.evaluate(Act(tx, ANN, at), MODEL, number, metrics, "holdout@1")

    return shelved.write(work)


def searched(shelved: Shelf, number: int) -> dict[str, float]:
    query = Query(model=MODEL, where=parse(f"version = {number}"), order=OF_ONE)
    [found] = shelved.read(lambda tx: tx.found(query)).found
    shown: dict[str, float] = json.loads(found.shown())["metrics"]
    return shown


@pytest.mark.parametrize("at", [2_000_000_000.0, 1_000.0])
def test_the_last_one_counts_whatever_the_clock_of_its_replica(shelved: Shelf, at: float) -> None:
    number = 1 if at < 1e9 else 2
    first = evaluate(shelved, number, 1_900_000_000.0, f1=0.5)
    last = evaluate(shelved, number, at, f1=0.75)
    assert last.at > first.at
    kept = shelved.read(lambda tx: tx.evaluations(MODEL, number))
    assert kept == [first, last]
    assert shelved.read(lambda tx: tx.evaluations(MODEL, number, 1)) == [last]
    known = shelved.read(lambda tx: tx.metrics(MODEL, number))
    assert known["f1"] == 0.75
    assert known == searched(shelved, number)


def test_what_was_registered_is_known_until_it_is_measured_again(shelved: Shelf) -> None:
    [kept] = [each for each in shelved.kept if each.key == (MODEL, 3)]
    assert shelved.read(lambda tx: tx.metrics(MODEL, 3)) == kept.metrics
    evaluate(shelved, 3, 2_000_000_000.0, fresh=1e300)
    assert shelved.read(lambda tx: tx.metrics(MODEL, 3)) == {**kept.metrics, "fresh": 1e300}


def test_of_many_large_ones_the_last_are_read(shelved: Shelf) -> None:
    large = {f"{each:0240}": float(each) for each in range(900)}
    given = [evaluate(shelved, 4, 2_000_000_000.0, **large) for _ in range(25)]
    read = shelved.read(lambda tx: tx.evaluations(MODEL, 4))
    assert 10 < len(read) < 25
    assert read == given[-len(read) :]


def test_metrics_of_a_version_come_to_an_end(shelved: Shelf) -> None:
    for start in (0, 500):
        evaluate(shelved, 5, 2_000_000_000.0, **{f"m{start + each}": 0.5 for each in range(480)})
    known = shelved.read(lambda tx: tx.metrics(MODEL, 5))
    with pytest.raises(DocumentInvalid, match="more than 1000 metrics"):
        evaluate(shelved, 5, 2_000_000_000.0, **{f"x{each}": 0.5 for each in range(100)})
    assert shelved.read(lambda tx: tx.metrics(MODEL, 5)) == known
    evaluate(shelved, 5, 2_000_000_000.0, m0=0.75)
