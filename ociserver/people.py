"""`lading user` and `lading robot`: who may log in. They work directly on the catalog.

Exit status: 0; 1 where there is no such name, or it is taken; 2 for a wrong setting, a bad name, or
a catalog out of reach.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ociserver.auth.passwords import is_hash, new_robot_key, password_hash, robot_hash
from ociserver.auth.principals import NAME_FORM, is_name
from ociserver.auth.records import AuditEvent, Credential, Kind, StoredPrincipal
from ociserver.errors import LadingError
from ociserver.ports import Catalog, CatalogTx
from ociserver.settings import SECONDS, SettingInvalid, add_options, given
from ociserver.stores import existing_catalog

_UNKNOWN = 1
_USAGE = 2
_PAGE = 500
_PASSWORD_BYTES = 1024
_KINDS: dict[Kind, str] = {"user": "a person, with a password", "robot": "a program, with a key"}


class _RefusedError(Exception):
    """What was asked cannot be done."""

    def __init__(self, message: str, status: int = _UNKNOWN) -> None:
        super().__init__(message)
        self.status = status


def user(arguments: Sequence[str]) -> int:
    """Run `lading user`; return the exit status."""
    return _main("user", arguments)


def robot(arguments: Sequence[str]) -> int:
    """Run `lading robot`; return the exit status."""
    return _main("robot", arguments)


def _main(kind: Kind, arguments: Sequence[str]) -> int:
    options = _parser(kind).parse_args(arguments)
    try:
        settings = given(options, os.environ)

        async def work() -> None:
            async with existing_catalog(settings) as catalog:
                command: Command = options.work
                await command(_Desk(catalog, kind), options)

        asyncio.run(work())
    except _RefusedError as error:
        sys.stderr.write(f"lading {kind}: {error}\n")
        return error.status
    except (SettingInvalid, LadingError, OSError) as error:
        sys.stderr.write(f"lading {kind}: {error}\n")
        return _USAGE
    return 0


@dataclass(frozen=True, slots=True)
class _Desk:
    """The catalog, and the kind of principals that a command is about."""

    catalog: Catalog
    kind: Kind

    async def require(self, name: str) -> None:
        """Raise _RefusedError unless there is one of this name: nobody types a password in vain."""
        found = await self.catalog.read(lambda tx: tx.principal(name))
        if found is None or found.kind != self.kind:
            raise _RefusedError(f"there is no {self.kind} {name}")

    async def change(
        self,
        action: str,
        name: str,
        changed: Callable[[StoredPrincipal], StoredPrincipal],
        also: Callable[[CatalogTx], None] = lambda _: None,
        **detail: object,
    ) -> None:
        """Make of the principal what `changed` says, and do the rest. Raises _RefusedError.

        It is read where it is written: who changes its groups must not enable it again, because
        it still was when they began.
        """

        def work(tx: CatalogTx) -> bool:
            found = tx.principal(name)
            if found is None or found.kind != self.kind:
                return False
            also(tx)
            return tx.change_principal(changed(found))

        if not await self.write(action, name, work, **detail):
            raise _RefusedError(f"there is no {self.kind} {name}")

    async def write(
        self, action: str, name: str, work: Callable[[CatalogTx], bool], **detail: object
    ) -> bool:
        """Do it and have it in the audit, or neither."""
        event = AuditEvent(
            at=time.time(),
            actor=f"operator:{getpass.getuser()}",
            action=action,
            subject=f"{self.kind}:{name}",
            outcome="done",
            detail=detail,
        )

        def both(tx: CatalogTx) -> bool:
            done = work(tx)
            if done:
                tx.record([event])
            return done

        return await self.catalog.write(both, in_turn=True)


Command = Callable[[_Desk, argparse.Namespace], Awaitable[None]]


def _parser(kind: Kind) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"lading {kind}", description=f"Who may log in: {_KINDS[kind]}."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, work: Command, summary: str, *, named: bool = True
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary)
        add_options(one, {"catalog"})
        if named:
            one.add_argument("name", metavar="NAME", help=NAME_FORM)
        one.set_defaults(work=work)
        return one

    adding = command("add", _add, f"Add {_KINDS[kind]}.")
    adding.add_argument("--group", action="append", default=[], help="a group it belongs to")
    rotating = command("rotate", _rotate, "Give it another secret; the old one ends.")
    rotating.add_argument(
        "--keep",
        metavar="TIME",
        default="0",
        help="how long the old secret is good beside the new one, such as 1h (default: not at all)",
    )
    for one in (adding, rotating):
        if kind == "user":
            one.add_argument(
                "--password-stdin", action="store_true", help="read the password from stdin"
            )
    grouping = command("groups", _groups, "Set the groups it belongs to: those named, no others.")
    grouping.add_argument("groups", metavar="GROUP", nargs="*")
    command("disable", _disable, "Let it in no more; tokens it holds are refused from now on.")
    command("enable", _enable, "Let it in again.")
    command("list", _list, "List them all.", named=False)
    if kind == "user":
        importing = command("import", _import, "Add people from an htpasswd file.", named=False)
        importing.add_argument("file", metavar="FILE", help="lines of NAME:HASH, bcrypt or argon2")
    return parser


async def _add(desk: _Desk, options: argparse.Namespace) -> None:
    groups = _checked([options.name, *options.group])[1:]
    secret, stored = _new_secret(desk.kind, options)
    if not await _record(desk, options.name, stored, groups):
        raise _RefusedError(f"the name {options.name} is taken")
    _tell(desk.kind, options.name, secret)


async def _record(desk: _Desk, name: str, stored: str, groups: Sequence[str]) -> bool:
    now = time.time()
    principal = StoredPrincipal(name=name, kind=desk.kind, groups=frozenset(groups))
    credential = Credential(id=uuid.uuid4().hex, principal=name, hash=stored)

    def work(tx: CatalogTx) -> bool:
        added = tx.add_principal(principal, now)
        if added:
            tx.add_credential(credential)
        return added

    return await desk.write(f"add-{desk.kind}", name, work, groups=sorted(groups))


async def _rotate(desk: _Desk, options: argparse.Namespace) -> None:
    await desk.require(options.name)
    kept = _seconds(options.keep)
    secret, stored = _new_secret(desk.kind, options)
    now = time.time()
    credential = Credential(id=uuid.uuid4().hex, principal=options.name, hash=stored)

    def secrets(tx: CatalogTx) -> None:
        tx.end_credentials(options.name, now + kept)
        tx.end_refresh_tokens(f"{desk.kind}:{options.name}", now + kept)
        tx.add_credential(credential)

    # What was issued for a secret that ends at once may be in the same wrong hands.
    await desk.change(
        "rotate-secret",
        options.name,
        lambda known: known if kept else replace(known, tokens_from=now),
        secrets,
        old_ends_at=now + kept,
    )
    _tell(desk.kind, options.name, secret)


async def _groups(desk: _Desk, options: argparse.Namespace) -> None:
    groups = frozenset(_checked(options.groups))
    await desk.change(
        "change-groups",
        options.name,
        lambda known: replace(known, groups=groups),
        groups=sorted(groups),
    )


async def _disable(desk: _Desk, options: argparse.Namespace) -> None:
    now = time.time()
    await desk.change("disable", options.name, lambda known: replace(known, disabled_at=now))


async def _enable(desk: _Desk, options: argparse.Namespace) -> None:
    now = time.time()
    # Nothing issued before it was disabled comes back to life.
    await desk.change(
        "enable", options.name, lambda known: replace(known, disabled_at=None, tokens_from=now)
    )


async def _list(desk: _Desk, _options: argparse.Namespace) -> None:
    after = ""
    while found := await desk.catalog.read(
        lambda tx: tx.principals(after, _PAGE)  # noqa: B023 - awaited at once
    ):
        for each in found:
            if each.kind == desk.kind:
                state = "disabled" if each.disabled_at is not None else "enabled"
                sys.stdout.write(f"{each.name}  {state}  {','.join(sorted(each.groups)) or '-'}\n")
        after = found[-1].name


async def _import(desk: _Desk, options: argparse.Namespace) -> None:
    lines = _read(Path(options.file)).splitlines()
    entries = [line.partition(":") for line in lines if line.strip() and line[0] != "#"]
    for name, _, stored in entries:
        _checked([name])
        if not is_hash(stored.strip()):
            raise _RefusedError(
                f"the hash of {name} is neither bcrypt nor argon2, or too slow to check", _USAGE
            )
    taken = [
        name for name, _, stored in entries if not await _record(desk, name, stored.strip(), [])
    ]
    sys.stdout.write(f"added {len(entries) - len(taken)} users\n")
    if taken:
        raise _RefusedError(f"there before, and left as they are: {', '.join(taken)}")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _RefusedError(f"{path} is no text", _USAGE) from error


def _new_secret(kind: Kind, options: argparse.Namespace) -> tuple[str, str]:
    """Return a secret and what is stored of it."""
    if kind == "robot":
        key = new_robot_key()
        return key, robot_hash(key)
    if options.password_stdin:
        password = sys.stdin.readline(_PASSWORD_BYTES + 2).removesuffix("\n").removesuffix("\r")
    else:
        password = _asked_for()
    if not password or len(password) > _PASSWORD_BYTES:
        raise _RefusedError(f"a password has 1 to {_PASSWORD_BYTES} characters", _USAGE)
    try:
        return password, password_hash(password)
    except UnicodeEncodeError as error:
        raise _RefusedError("a password is UTF-8", _USAGE) from error


def _asked_for() -> str:
    try:
        with warnings.catch_warnings():
            # Without a terminal it would read on, from stdin and in plain sight.
            warnings.simplefilter("error", getpass.GetPassWarning)
            password = getpass.getpass("Password: ")
            again = getpass.getpass("Again: ")
    except (EOFError, getpass.GetPassWarning) as error:
        told = "nobody answers at a terminal: --password-stdin reads the password"
        raise _RefusedError(told, _USAGE) from error
    if password != again:
        raise _RefusedError("these were two different passwords", _USAGE)
    return password


def _tell(kind: Kind, name: str, secret: str) -> None:
    if kind == "robot":
        sys.stdout.write(f"{secret}\n")
        sys.stderr.write(f"The key of robot {name}; it is not shown again.\n")


def _seconds(text: str) -> float:
    if text == "0":
        return 0.0
    try:
        return cast("float", SECONDS.parse(text))
    except ValueError as error:
        raise _RefusedError(f"--keep={text!r} is not {SECONDS.name}", _USAGE) from error


def _checked(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if not is_name(name):
            raise _RefusedError(f"{name!r} is no name: {NAME_FORM}", _USAGE)
    return names
