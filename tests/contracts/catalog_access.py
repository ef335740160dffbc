"""What `ports.Catalog` promises of access: principals, secrets, keys, refresh tokens, the audit."""

from __future__ import annotations

import asyncio
import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from ociserver.auth.records import (
    ACCESS,
    Credential,
    RefreshToken,
    SigningKey,
    StoredPrincipal,
)
from ociserver.errors import Unavailable
from ociserver.ports import Catalog, CatalogTx
from tests.contracts.catalog import Make, Work, after, settled, told, until
from tests.contracts.catalog_audit import AuditContract

ANN = StoredPrincipal(name="ann", kind="user", groups=frozenset({"b", "a", "é"}))
BOT = StoredPrincipal(name="bot", kind="robot", disabled_at=7.5, tokens_from=6.25)


def people(tx: CatalogTx, *principals: StoredPrincipal) -> None:
    for each in principals or (ANN, BOT):
        assert tx.add_principal(each, 1.0)


def secret(number: int, principal: str = "ann", ends_at: float | None = None) -> Credential:
    return Credential(id=f"c{number}", principal=principal, hash=f"HASH{number}", ends_at=ends_at)


def usable(tx: CatalogTx, principal: str, now: float) -> list[str]:
    """The ids of its secrets."""
    return [each.id for each in tx.credentials(principal, now)]


def signing(number: int) -> SigningKey:
    return SigningKey(id=f"k{number}", private=b"\0PRIVATE KEY", signs_from=100.0 - number)


def key_ids(tx: CatalogTx) -> list[str]:
    return [each.id for each in tx.signing_keys()]


def refresh(number: int, family: str = "f") -> RefreshToken:
    return RefreshToken(
        hash=f"{number:064x}", family=family, principal="user:ann", issued_at=1.0, ends_at=10.0
    )


def refreshing(tx: CatalogTx, *numbers: int) -> list[int]:
    """Which of the refresh tokens are there."""
    return [number for number in numbers if tx.refresh_token(refresh(number).hash) is not None]


class AccessContract(AuditContract):
    """A suite has fixtures `make` and `raw` of its own."""

    # -- principals

    def test_a_name_is_taken_by_either_kind(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            people(tx)
            assert not tx.add_principal(replace(ANN, groups=frozenset()), 2.0)
            assert not tx.add_principal(StoredPrincipal(name="ann", kind="robot"), 2.0)
            assert not tx.add_principal(StoredPrincipal(name="bot", kind="user"), 2.0)
            assert tx.add_principal(StoredPrincipal(name="Ann", kind="robot"), 2.0)

        def look(tx: CatalogTx) -> list[StoredPrincipal | None]:
            return [tx.principal(name) for name in ("ann", "bot", "user:ann", "")]

        assert after(make, change, look) == [ANN, BOT, None, None]

    def test_principals_are_listed_by_name_in_byte_order(self, make: Make) -> None:
        names = ["a", "a-b", "a.b", "a@b", "a_b", "ab", "0", "z", "a+b"]

        def change(tx: CatalogTx) -> None:
            people(tx, *(StoredPrincipal(name=each, kind="robot") for each in names))

        def look(tx: CatalogTx) -> list[list[str]]:
            pages = (("", 99), ("", 2), ("a.b", 3), ("aa", 9), ("z", 9), ("", 0))
            return [[each.name for each in tx.principals(*page)] for page in pages]

        ordered = sorted(names, key=str.encode)
        expected = [ordered, ordered[:2], ["a@b", "a_b", "ab"], ["ab", "z"], [], []]
        assert after(make, change, look) == expected

    def test_a_principal_changes_in_all_but_name_and_kind(self, make: Make) -> None:
        changed = replace(ANN, groups=frozenset({"c"}), disabled_at=9.0, tokens_from=8.0)
        enabled = replace(BOT, disabled_at=None)

        def change(tx: CatalogTx) -> None:
            people(tx)
            assert tx.change_principal(changed)
            assert tx.change_principal(enabled)
            assert not tx.change_principal(replace(ANN, name="eve"))
            assert not tx.change_principal(replace(ANN, kind="robot"))

        def look(tx: CatalogTx) -> Sequence[StoredPrincipal]:
            return tx.principals("", 9)

        assert after(make, change, look) == [changed, enabled]

    def test_the_disabled_are_cut_off_for_good_and_others_from_a_time_on(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            people(
                tx,
                StoredPrincipal(name="never", kind="user"),
                StoredPrincipal(name="before", kind="user", tokens_from=4.75),
                StoredPrincipal(name="at", kind="user", tokens_from=5.0),
                StoredPrincipal(name="later", kind="robot", tokens_from=6.0),
                StoredPrincipal(name="disabled", kind="robot", disabled_at=1.0),
                StoredPrincipal(name="both", kind="user", disabled_at=1.0, tokens_from=6.0),
            )

        assert after(make, change, lambda tx: tx.cut_off(5.0)) == {
            "user:at": 5.0,
            "robot:later": 6.0,
            "robot:disabled": math.inf,
            "user:both": math.inf,
        }

    # -- what they prove themselves with

    def test_a_credential_is_found_until_it_ends_or_another_takes_its_id(self, make: Make) -> None:
        newer = Credential(id="c1", principal="ann", hash="newer", ends_at=5.0)

        def change(tx: CatalogTx) -> None:
            people(tx)
            for each in (secret(1), secret(2), secret(3, "bot"), newer):
                tx.add_credential(each)

        def look(tx: CatalogTx) -> None:
            assert tx.credentials("ann", 4.75) == [newer, secret(2)]
            assert tx.credentials("ann", 5.0) == [secret(2)]
            assert tx.credentials("bot", 99.0) == [secret(3, "bot")]
            assert tx.credentials("eve", 0.0) == []

        after(make, change, look)

    def test_credentials_end_together_and_none_is_made_to_last_longer(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            people(tx)
            for each in (secret(1), secret(2, ends_at=9.0), secret(3, ends_at=3.0)):
                tx.add_credential(each)
            tx.add_credential(secret(4, "bot"))
            tx.end_credentials("ann", 5.0)

        def look(tx: CatalogTx) -> list[list[str]]:
            return [usable(tx, "ann", now) for now in (2.0, 4.0, 5.0)] + [usable(tx, "bot", 99.0)]

        assert after(make, change, look) == [["c1", "c2", "c3"], ["c1", "c2"], [], ["c4"]]

    # -- keys

    def test_a_key_is_added_only_after_the_one_that_was_last(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            assert not tx.add_signing_key(signing(1), "k0")
            assert tx.add_signing_key(signing(1), None)
            assert not tx.add_signing_key(signing(2), None)
            assert tx.add_signing_key(signing(2), "k1")
            assert not tx.add_signing_key(signing(3), "k1")
            assert tx.add_signing_key(signing(3), "k2")

        def look(tx: CatalogTx) -> Sequence[SigningKey]:
            return tx.signing_keys()

        # Newest is what was added last, not what signs last: clocks differ.
        assert after(make, change, look) == [signing(3), signing(2), signing(1)]

    def test_a_dropped_key_is_gone_and_the_one_before_may_be_the_newest(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number, newest in ((1, None), (2, "k1"), (3, "k2")):
                assert tx.add_signing_key(signing(number), newest)
            tx.drop_signing_keys(["k1", "k3", "absent"])
            tx.drop_signing_keys([])
            assert key_ids(tx) == ["k2"]
            assert not tx.add_signing_key(signing(4), "k3")
            assert tx.add_signing_key(signing(4), "k2")

        assert after(make, change, key_ids) == ["k4", "k2"]

    def test_of_two_workers_one_adds_the_key(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            newest: str | None = None
            for number in range(0, 40, 2):
                added = await asyncio.gather(
                    *(
                        each.write(partial(add, key=signing(number + which), newest=newest))
                        for which, each in enumerate((one, two))
                    )
                )
                assert sorted(added) == [False, True]
                newest = f"k{number + added.index(True)}"
            assert len(await two.read(key_ids)) == 20

        def add(tx: CatalogTx, key: SigningKey, newest: str | None) -> bool:
            return tx.add_signing_key(key, newest)

        told(make, story, workers=2)

    # -- refresh tokens

    def test_a_refresh_token_is_replaced_once_and_only_while_it_lasts(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in (1, 2, 3):
                tx.add_refresh_token(refresh(number))
            tokens = [refresh(number).hash for number in (1, 2, 3, 4)]
            assert tx.replace_refresh_token(tokens[0], 5.0)
            assert not tx.replace_refresh_token(tokens[0], 6.0)
            assert tx.replace_refresh_token(tokens[1], 9.75)
            assert not tx.replace_refresh_token(tokens[2], 10.0)
            assert not tx.replace_refresh_token(tokens[3], 1.0)

        def look(tx: CatalogTx) -> list[RefreshToken | None]:
            return [tx.refresh_token(refresh(number).hash) for number in (1, 2, 3, 4)]

        first, second = (replace(refresh(n), replaced_at=at) for n, at in ((1, 5.0), (2, 9.75)))
        assert after(make, change, look) == [first, second, refresh(3), None]

    def test_of_two_workers_one_replaces_the_refresh_token(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            def add(tx: CatalogTx) -> None:
                for number in range(20):
                    tx.add_refresh_token(refresh(number))

            def take(tx: CatalogTx, number: int) -> bool:
                return tx.replace_refresh_token(refresh(number).hash, 5.0)

            await one.write(add)
            for number in range(20):
                work = partial(take, number=number)
                took = await asyncio.gather(one.write(work), two.write(work))
                assert sorted(took) == [False, True]

        told(make, story, workers=2)

    def test_refresh_tokens_of_a_principal_end_no_later_than_told(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            tx.add_refresh_token(refresh(1))
            tx.add_refresh_token(replace(refresh(2), ends_at=3.0))
            tx.add_refresh_token(replace(refresh(3), principal="user:bob"))
            tx.end_refresh_tokens("user:ann", 5.0)

        def look(tx: CatalogTx) -> list[float | None]:
            found = [tx.refresh_token(refresh(number).hash) for number in (1, 2, 3)]
            return [each.ends_at if each else None for each in found]

        assert after(make, change, look) == [5.0, 3.0, 10.0]

    def test_a_login_s_refresh_tokens_are_forgotten_together(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number, family in ((1, "f"), (2, "g"), (3, "f")):
                tx.add_refresh_token(refresh(number, family))
            tx.replace_refresh_token(refresh(1).hash, 5.0)
            tx.drop_refresh_family("f")

        assert after(make, change, lambda tx: refreshing(tx, 1, 2, 3)) == [2]

    def test_refresh_tokens_that_ended_before_then_are_forgotten(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in (1, 2, 3):
                tx.add_refresh_token(replace(refresh(number), ends_at=float(number)))
            tx.drop_refresh_tokens_ended(2.0)

        assert after(make, change, lambda tx: refreshing(tx, 1, 2, 3)) == [2, 3]

    # -- news

    def test_every_worker_hears_of_changes_within_a_tenth_of_a_second(self, make: Make) -> None:
        changes: list[Work[object]] = [
            lambda tx: tx.add_principal(ANN, 1.0),
            lambda tx: tx.change_principal(replace(ANN, tokens_from=5.0)),
            lambda tx: tx.add_credential(secret(1)),
            lambda tx: tx.add_credential(secret(1, ends_at=9.0)),
            lambda tx: tx.end_credentials("ann", 5.0),
            lambda tx: tx.add_signing_key(signing(1), None),
            lambda tx: tx.drop_signing_keys(["k1"]),
        ]

        async def story(one: Catalog, two: Catalog) -> list[float]:
            took = []
            for change in changes:
                for each in (one, two):
                    await settled(each)
                before = [each.generation(ACCESS) for each in (one, two)]
                await one.write(change)
                acknowledged = time.monotonic()
                assert one.generation(ACCESS) != before[0]
                await until(lambda b=before: two.generation(ACCESS) != b[1])  # type: ignore[misc]
                took.append(time.monotonic() - acknowledged)
            return took

        # Of them the quickest: how long a busy machine lets any single one wait says nothing.
        assert min(told(make, story, workers=2)) < 0.1

    # -- the audit

    def test_no_secret_is_in_what_a_failure_says(self, make: Make) -> None:
        async def story(catalog: Catalog) -> str:
            with pytest.raises(Unavailable) as refused:
                await catalog.write(lambda tx: tx.add_credential(secret(1, "nobody")))
            return "".join(traceback.format_exception(refused.value))

        said = told(make, story)
        assert "the catalog failed" in said
        assert "HASH1" not in said

    def test_no_secret_is_in_a_representation(self) -> None:
        assert "HASH1" not in repr(secret(1))
        assert "PRIVATE" not in repr(signing(1))
