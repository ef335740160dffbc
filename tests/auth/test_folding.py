"""What a flood of refusals becomes in the audit: few events, and all of it in their counts."""

from __future__ import annotations

import math

from ociserver.auth.folding import DISTINCT, DISTINCT_OF_ADDRESS, WINDOW_SECONDS, Folding
from ociserver.auth.records import AuditEvent

NOW = 1_700_000_000.0


def refusal(number: int = 0, *, actor: str = "anyone", at: float = NOW) -> AuditEvent:
    return AuditEvent(
        at=at,
        actor=actor,
        action="pull",
        subject=f"team/{number}",
        outcome="denied",
        detail={"request_id": "7", "address": "192.0.2.1"},
    )


def repeated(events: list[AuditEvent]) -> int:
    found = 0
    for each in events:
        count = each.detail["repeated"]
        assert isinstance(count, int)
        found += count
    return found


def test_the_first_is_recorded_and_its_like_are_counted() -> None:
    folding = Folding()
    assert folding.is_first(refusal(), "192.0.2.1")
    for second in range(1, 4):
        assert not folding.is_first(refusal(at=NOW + second), "192.0.2.1")
    # Another actor, subject or address is another refusal.
    assert folding.is_first(refusal(actor="user:bob"), "192.0.2.1")
    assert folding.is_first(refusal(1), "192.0.2.1")
    assert folding.is_first(refusal(), "192.0.2.2")
    assert folding.counted(NOW + WINDOW_SECONDS - 1) == []
    [event] = folding.counted(NOW + WINDOW_SECONDS)
    assert (event.actor, event.action, event.subject) == ("anyone", "pull", "team/0")
    assert (event.outcome, event.at) == ("denied", NOW + 3)
    assert event.detail == {"address": "192.0.2.1", "repeated": 3, "since": NOW}


def test_after_the_window_all_is_new() -> None:
    folding = Folding()
    assert folding.is_first(refusal(), "192.0.2.1")
    assert folding.counted(NOW + WINDOW_SECONDS) == []
    later = NOW + 2 * WINDOW_SECONDS
    assert folding.is_first(refusal(at=later), "192.0.2.1")
    assert not folding.is_first(refusal(at=later + 1), "192.0.2.1")
    assert folding.counted(later + WINDOW_SECONDS - 1) == []
    assert repeated(folding.counted(math.inf)) == 1


def test_an_address_that_makes_up_ever_new_ones_has_its_share() -> None:
    folding = Folding()
    firsts = sum(folding.is_first(refusal(number), "192.0.2.1") for number in range(10_000))
    assert firsts == DISTINCT_OF_ADDRESS
    # Others are heard beside it.
    assert folding.is_first(refusal(), "192.0.2.2")
    [event] = folding.counted(math.inf)
    assert (event.actor, event.subject, event.action) == ("several", "several", "pull")
    assert event.detail["address"] == "192.0.2.1"
    assert repeated([event]) == 10_000 - DISTINCT_OF_ADDRESS


def test_many_addresses_have_their_share_together() -> None:
    folding = Folding()
    addresses = [f"2001:db8::{number:x}" for number in range(5_000)]
    firsts = sum(folding.is_first(refusal(), address) for _ in range(2) for address in addresses)
    assert firsts == DISTINCT
    found = folding.counted(math.inf)
    assert len(found) <= DISTINCT + 1
    assert firsts + repeated(found) == 10_000
    assert [each.detail["address"] for each in found if each.actor == "several"] == ["several"]
