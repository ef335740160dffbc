"""`make bench`, fourth part: the model registry, on SQLite and on PostgreSQL, beside MLflow's own
server on SQLite with the same models, versions, tags, metrics and aliases.

A server has one core; PostgreSQL and the load share the other. What is asked for is drawn anew in
every round, and the same for all of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import filling, load, machine, mlflow, peers
from bench.asking import FULL, QUICK, Asking, Sizes
from bench.load import play
from bench.measures import CLIENTS
from bench.server import running
from bench.suite import profiles, say
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from bench.load import Played
    from bench.peers import Launch, Peer
    from bench.plan import Figures
    from bench.population import Population
    from bench.server import Profile, Server

SQLITE, POSTGRES, MLFLOW = "lading", "lading on PostgreSQL", "mlflow"
# What is asked: (label, key, bound, whether of all or beside MLflow).
TARGETS = (
    ("alias resolve warm, p99 ms", "warm_p99", 1.0),
    ("alias resolve cold, p99 ms", "cold_p99", 5.0),
    ("one model's versions, filtered and sorted, p95 ms", "one_p95", 50.0),
    ("… across models, a metric above a bound by that metric, p95 ms", "broad_p95", 50.0),
    ("… across models, two metrics and a tag by a third, p95 ms", "mixed_p95", 50.0),
    ("… across models, a rare tag by a metric, p95 ms", "rare_p95", 50.0),
    ("… across models, a tag, the newest first, p95 ms", "tagged_p95", 50.0),
    ("promotion, p99 ms", "move_p99", 25.0),
)
# (label, key, least ratio to MLflow's rate on SQLite).
RATIOS = (
    ("alias resolves a second ÷ MLflow's", "resolve_rate", 100.0),
    (
        "pages of one model's versions, each for the first time, a second ÷ MLflow's",
        "newest_rate",
        20.0,
    ),
    ("pages of versions by tag a second ÷ MLflow's", "tagged_rate", 20.0),
)
CPU = "… the server's CPU, ms each"
ROWS = (
    ("cold_p50", "alias resolve, cold, p50 ms"),
    ("cold_p99", "… p99"),
    ("warm_p50", "alias resolve, warm, p50 ms"),
    ("warm_p99", "… p99"),
    ("resolve_rate", "alias resolves a second, 16 clients"),
    ("resolve_cpu", CPU),
    ("newest_p50", "a model's versions, the newest first, p50 ms"),
    ("newest_p95", "… p95"),
    ("newest_rate", "… a second, 16 clients"),
    ("newest_cpu", CPU),
    ("again_rate", "… the same pages again, a second"),
    ("again_cpu", CPU),
    ("one_p50", "a model's versions, filtered by metric and tag, sorted by metric, p50 ms"),
    ("one_p95", "… p95"),
    ("broad_p50", "across models, a metric above a bound by that metric, p50 ms"),
    ("broad_p95", "… p95"),
    ("mixed_p50", "across models, two metrics and a tag by a third metric, p50 ms"),
    ("mixed_p95", "… p95"),
    ("rare_p50", "across models, a tag of 50 versions by a metric, p50 ms"),
    ("rare_p95", "… p95"),
    ("tagged_p50", "across models, a tag of one in 20, the newest first, p50 ms"),
    ("tagged_p95", "… p95"),
    ("tagged_rate", "… a second, 16 clients"),
    ("tagged_cpu", CPU),
    ("move_p50", "promotion, p50 ms"),
    ("move_p99", "… p99"),
    ("move_cpu", CPU),
    ("moves_rate", "promotions a second, 16 promoters of different models"),
    ("moves_p99", "… p99 ms"),
)


def contenders(catalog: str, theirs: Peer) -> list[Peer]:
    """Lading on SQLite and on that catalog, and MLflow."""
    lading = next(peer for peer in peers.PEERS if peer.name == "lading")

    def on_postgres(launch: Launch) -> list[str]:
        return [catalog if each.startswith("sqlite:") else each for each in lading.command(launch)]

    return [lading, replace(lading, name=POSTGRES, command=on_postgres), theirs]


def fill(peer: Peer, folder: Path, catalog: str, profile: Profile, population: Population) -> float:
    """Put the population where the peer will look for it; return the seconds it took."""
    say(f"models {peer.name}: {population.models:,} models of {population.each} versions")
    (folder / "data").mkdir(parents=True)
    if peer.name == MLFLOW:
        # Its first start makes the tables.
        with running(peer, folder, profile):
            pass
        begun = time.perf_counter()
        filling.into_sqlite(folder / "data" / "mlflow.db", mlflow.rows(population))
        return time.perf_counter() - begun
    path = folder / "data" / "catalog.db"
    place = catalog if peer.name == POSTGRES else f"sqlite:///{path}"
    command = [str(peer.path()), "migrate", "--catalog", place]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    begun = time.perf_counter()
    if peer.name == POSTGRES:
        filling.into_postgres(catalog, filling.of_lading(population))
    else:
        filling.into_sqlite(path, filling.of_lading(population))
    return time.perf_counter() - begun


def take(server: Server, asking: Asking, sizes: Sizes) -> Figures:
    """Every figure of one registry. It has just been started."""
    figures: Figures = {}
    if server.peer.name == MLFLOW:
        resolves, searches, moves = (
            asking.their_resolves(), asking.their_searches(), asking.their_moves()
        )  # fmt: skip
    else:
        resolves, searches = asking.resolves(), asking.searches()
        moves = asking.moves(sizes.moves, "moves")
    cold, warm = play(server, resolves), play(server, resolves)
    figures |= {"cold_p50": cold.p50_ms, "cold_p99": cold.p99_ms}
    figures |= {"warm_p50": warm.p50_ms, "warm_p99": warm.p99_ms}
    figures |= _rate("resolve", server, resolves, sizes)
    for name, script in searches:
        played = play(server, script)
        figures |= {f"{name}_p50": played.p50_ms, f"{name}_p95": played.p95_ms}
        if name in ("newest", "tagged"):
            figures |= _rate(name, server, script, sizes)
    if server.peer.name != MLFLOW:
        # Ours keeps the pages of a model: those that were just asked for are another figure.
        figures |= {"again_rate": figures["newest_rate"], "again_cpu": figures["newest_cpu"]}
        first = play(server, asking.pages(), connections=CLIENTS)
        figures |= {"newest_rate": first.rate, "newest_cpu": _cpu(first)}
    played = play(server, moves)
    figures |= {"move_p50": played.p50_ms, "move_p99": played.p99_ms, "move_cpu": _cpu(played)}
    if server.peer.name != MLFLOW:
        crowd = play(server, asking.moves(sizes.moves, "crowd"), connections=CLIENTS)
        figures |= {"moves_rate": crowd.rate, "moves_p99": crowd.p99_ms}
    return figures


def _rate(name: str, server: Server, script: Path, sizes: Sizes) -> Figures:
    played = play(server, script, connections=CLIENTS, seconds=sizes.seconds)
    return {f"{name}_rate": played.rate, f"{name}_cpu": _cpu(played)}


def _cpu(played: Played) -> float:
    """Milliseconds of the server, without PostgreSQL's: what a busy machine disturbs least."""
    return played.server_cpu_seconds / played.groups * 1000


def measure(sizes: Sizes, scratch: Path) -> tuple[dict[str, Figures], dict[str, float]]:
    """Return each registry's medians, and how long it took to fill it."""
    profile = profiles(["one"])[0]
    found: dict[str, list[Figures]] = {}
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        with load.on_cores(profile.load_cores):
            database = PostgresServer()
            stack.callback(database.remove)
            database.start()
        catalog = database.new_database()
        every = contenders(catalog, mlflow.install())
        for peer in every:
            folder = scratch / peer.name
            seconds[peer.name] = fill(peer, folder, catalog, profile, sizes.population)
        for number in range(sizes.rounds):
            asking = Asking(sizes, scratch, number)
            for peer in every:
                say(f"models {number + 1} {peer.name}")
                os.sync()  # none pays for what another left unwritten
                with running(peer, scratch / peer.name, profile) as server:
                    found.setdefault(peer.name, []).append(take(server, asking, sizes))
    medians = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    return medians, seconds


def markdown(content: dict[str, Any]) -> str:
    """Return the tables: every figure, then what was asked of them."""
    found: dict[str, Figures] = content["figures"]
    ours, shared, theirs = found[SQLITE], found[POSTGRES], found[MLFLOW]
    models, each = content["models"], content["versions"]
    lines = ["## The model registry", "", f"{models:,} models of {each} versions each.", ""]
    lines += ["| | Lading on SQLite | on PostgreSQL | MLflow on SQLite |", "|---|---:|---:|---:|"]
    for key, label in ROWS:
        shown = (f"{each[key]:,.3g}" if key in each else "—" for each in (ours, shared, theirs))
        lines.append(f"| {label} | {' | '.join(shown)} |")
    lines += ["", "| asked | bound | SQLite | PostgreSQL | |", "|---|---:|---:|---:|---|"]
    for label, key, bound in TARGETS:
        worst = max(ours[key], shared[key])
        verdict = "reached" if worst <= bound else f"missed by {worst / bound - 1:.0%}"
        lines.append(f"| {label} | {bound:g} | {ours[key]:.3g} | {shared[key]:.3g} | {verdict} |")
    for label, key, bound in RATIOS:
        ratio, other = ours[key] / theirs[key], shared[key] / theirs[key]
        verdict = "reached" if ratio >= bound else f"missed: {ratio / bound:.0%} of it"
        lines.append(f"| {label} | {bound:g} | {ratio:,.0f} | {other:,.0f} | {verdict} |")
    return "\n".join([*lines, "", *_notes(content)]) + "\n"


def _notes(content: dict[str, Any]) -> list[str]:
    facts = content["machine"]
    took = ", ".join(f"{name} {each:.0f}" for name, each in content["filling_seconds"].items())
    of_all = (
        "A server has one core, with one worker; PostgreSQL and the load share the other. Cold is "
        "each alias for the first time since a start, the files still in the page cache; warm is "
        "the same once more. The ratios are of Lading on SQLite and say little where others run: "
        "there processor time does. MLflow answers an alias with the whole version, and is "
        f"{content['theirs']}, asked {content['asked_of_theirs']} times each, so its p99 is its "
        "worst. Metrics are with its runs, where its search of versions does not look: it is asked "
        "for tags alone."
    )
    before, after = facts["load_average_before"], content["load_average_after"]
    on = f"{facts['processor']}, {facts['cores']} cores; load before: {before}, after: {after:.2f}."
    filled = f"Filled past the programs, by their tables, in seconds: {took}."
    return [of_all, "", filled, "", on]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 models of 10, and one round")
    parser.add_argument("--rounds", type=int, help="rounds (3; quick: 1)")
    chosen = parser.parse_args()
    sizes = QUICK if chosen.quick else FULL
    sizes = replace(sizes, rounds=chosen.rounds or sizes.rounds)
    # A plain SIGTERM would leave servers running and their data lying.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.build()
    facts = machine.facts(load.OUT)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=load.OUT) as scratch:
        figures, seconds = measure(sizes, Path(scratch))
    content = {
        "machine": facts,
        "load_average_after": os.getloadavg()[0],
        "models": sizes.population.models,
        "versions": sizes.population.each,
        "rounds": sizes.rounds,
        "theirs": mlflow.PIN,
        "asked_of_theirs": sizes.theirs,
        "filling_seconds": seconds,
        "figures": figures,
    }
    (load.OUT / "models.json").write_text(json.dumps(content, indent=1) + "\n")
    text = markdown(content)
    (load.OUT / "models.md").write_text(text)
    print(text)
    return 0
