# Gates in the catalog: there is an end to them, as every push of a tag looks through them.
from __future__ import annotations

import pytest

from mlext import aliases
from mlext.acts import Act
from mlext.errors import GatesFull, GateUnknown
from mlext.gates import GATES_MAX, parse_gate
from mlext.ports import ModelsTx
from ociserver.admission import Author
from tests.mlext.population import Shelf

ANN = Author(name="user:ann", may=lambda *_: True, may_somewhere=lambda _: True)
GATE = parse_gate({"name": "g", "model": "team/**", "alias": "prod", "lineage": True})


def test_gates_come_to_an_end_and_those_that_are_there_may_change(shelved: Shelf) -> None:
    def furnish(tx: ModelsTx) -> None:
        for number in range(GATES_MAX):
            aliases.put_gate(Act(tx, ANN), f"g{number}", GATE)

    shelved.write(furnish)
    with pytest.raises(GatesFull):
        shelved.write(lambda tx: aliases.put_gate(Act(tx, ANN), "one-more", GATE))
    shelved.write(lambda tx: aliases.put_gate(Act(tx, ANN), "g0", GATE))
    shelved.write(lambda tx: aliases.drop_gate(Act(tx, ANN), "g1"))
    with pytest.raises(GateUnknown):
        shelved.write(lambda tx: aliases.drop_gate(Act(tx, ANN), "g1"))
    shelved.write(lambda tx: aliases.put_gate(Act(tx, ANN), "one-more", GATE))
    assert len(shelved.read(lambda tx: tx.gates())) == GATES_MAX
