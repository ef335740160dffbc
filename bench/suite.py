"""The run: which peers, profiles and measures, the interleaved rounds, and what is written.

Peers take turns within a round, so that a machine that slows down slows all of them. Each take
has a server started afresh and a disk without another's unwritten pages.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from bench import clients, load, machine, peers, report, targets
from bench.catalog import MEASURES
from bench.plan import Bench, Figures, Measure, Sizes
from bench.server import Profile, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers import Peer

MIB, GIB = 1 << 20, 1 << 30

FULL = Sizes(
    blob=GIB, stream=20 * GIB, shard=100_000_000, seconds=5, reads=5, tags=100_000,
    referrers=10_000, peer_tags=2_000, peer_referrers=500, artifacts=40_000,
)  # fmt: skip
QUICK = Sizes(
    blob=64 * MIB, stream=256 * MIB, shard=10_000_000, seconds=1, reads=3, tags=2_000,
    referrers=1_000, peer_tags=200, peer_referrers=100, artifacts=8_000,
)  # fmt: skip


@dataclass(slots=True)
class Result:
    """What one measure gave for one peer: figures of each round, medians, peaks."""

    profile: str
    measure: str
    peer: str
    rounds: list[Figures] = field(default_factory=list)
    peak_mib: float = 0.0
    peak_process_mib: float = 0.0

    @property
    def median(self) -> Figures:
        """Each figure's median over the rounds."""
        keys = self.rounds[0] if self.rounds else {}
        return {key: statistics.median(each[key] for each in self.rounds) for key in keys}


@dataclass(slots=True)
class Run:
    """The state of one run: where it works, what it found, what failed."""

    bench: Bench
    peers: list[Peer]
    rounds: int
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def measure(self, measure: Measure, profile: Profile) -> None:
        """Take the measure of each peer it fits, in rounds."""
        fitting = [
            peer
            for peer in self.peers
            if measure.fits(peer) and (measure.static or not peer.static)
        ]
        results = {peer.name: Result(profile.name, measure.name, peer.name) for peer in fitting}
        place = Path(tempfile.mkdtemp(prefix=f"{measure.name}-", dir=self.bench.folder))
        try:
            for number in range(1 if measure.once else self.rounds):
                for peer in list(fitting):
                    say(f"{profile.name} {measure.name} {number + 1} {peer.name}")
                    try:
                        self._take(measure, profile, peer, place, results[peer.name])
                    except (load.LoadError, OSError, HTTPException) as error:
                        self._failed(f"{profile.name} {measure.name} {peer.name}: {error}")
                        fitting.remove(peer)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self.results += [result for result in results.values() if result.rounds]

    def _take(
        self, measure: Measure, profile: Profile, peer: Peer, place: Path, result: Result
    ) -> None:
        folder = place / peer.name
        if measure.fill and not folder.exists():
            folder.mkdir()
            with running(peer, folder, profile) as server:
                measure.fill(self.bench, server)
        elif not measure.fill:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        os.sync()  # no peer pays for what another left unwritten
        with running(peer, folder, profile) as server:
            result.rounds.append(measure.take(self.bench, server))
            found = server.peaks()
        result.peak_mib = max(result.peak_mib, sum(found))
        result.peak_process_mib = max(result.peak_process_mib, *found)

    def _failed(self, words: str) -> None:
        self.failures.append(words)
        say(f"!! FAILED {words}")


def say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)


def profiles(names: list[str]) -> list[Profile]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        say("!! only one core: server and load share it, figures are of both")
    one = Profile(
        name="one",
        server_cores=frozenset(cores[:1]),
        load_cores=frozenset(cores[1:2] or cores),
    )
    every = frozenset(cores)
    both = Profile(
        name="all",
        server_cores=every,
        load_cores=every,
    )
    return [profile for profile in (one, both) if profile.name in names]


def _some_of(known: list[str]) -> Callable[[str], list[str]]:
    """Return a parser of names by comma, which refuses any that is not known."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(known)}")
        return names

    return chosen


def options() -> argparse.Namespace:
    names = [measure.name for measure in MEASURES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and one round")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    known = [peer.name for peer in peers.PEERS]
    parser.add_argument("--peers", type=_some_of(known), default=known, help=",".join(known))
    both = ["one", "all"]
    parser.add_argument("--profiles", type=_some_of(both), default=both, help=",".join(both))
    parser.add_argument("--rounds", type=int, help="rounds per measure (3; quick: 1)")
    for field_ in dataclasses.fields(Sizes):
        kind = float if field_.type == "float" else int
        name = f"--{field_.name.replace('_', '-')}"
        parser.add_argument(name, type=kind, help=f"default {getattr(FULL, field_.name):,}")
    parser.epilog = f"measures: {', '.join(names)}"
    return parser.parse_args()


def sizes(chosen: argparse.Namespace) -> Sizes:
    """Return the preset with what was given; the stream shrinks to what the disk can hold."""
    preset = QUICK if chosen.quick else FULL
    given = {key: value for key, value in vars(chosen).items() if value is not None}
    names = {each.name for each in dataclasses.fields(Sizes)}
    found = dataclasses.replace(
        preset, **{key: value for key, value in given.items() if key in names}
    )
    room = int(shutil.disk_usage(load.OUT).free * 0.8) - GIB
    if "stream" in chosen.only and found.stream > room:
        say(f"!! the disk has no room for a stream of {report.size(found.stream)}: taking less")
        found = dataclasses.replace(found, stream=max(MIB, room))
    return found


def write(run: Run, facts: machine.Facts) -> None:
    content = {
        "machine": facts,
        "rounds": run.rounds,
        "sizes": dataclasses.asdict(run.bench.sizes),
        "peers": {
            peer.name: {"version": peers.version(peer), "durable": peer.durable}
            for peer in run.peers
        },
        "results": [
            dataclasses.asdict(result) | {"median": result.median} for result in run.results
        ],
        "targets": [dataclasses.asdict(each) for each in targets.judge(run.results)],
        "failures": run.failures,
    }
    (load.OUT / "bench.json").write_text(json.dumps(content, indent=1) + "\n")
    text = report.markdown(content)
    (load.OUT / "bench.md").write_text(text)
    print(text)


def main() -> int:
    chosen = options()
    # A plain SIGTERM would leave servers running and their data lying.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.build()
    facts = machine.facts(load.OUT)
    if float(facts["load_average_before"]) > 0.5:
        say(f"!! the machine is busy (load average {facts['load_average_before']}): figures drift")
    built = ["registry"] if "distribution" in chosen.peers else []
    peers.build_tools(built + (["oras"] if "model" in chosen.only else []))
    measures = [measure for measure in MEASURES if measure.name in chosen.only]
    if not clients.oras() and "model" in chosen.only:
        say("!! NO oras: the model folder is not measured")
        measures = [measure for measure in measures if measure.name != "model"]
    rounds = chosen.rounds or (1 if chosen.quick else 3)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=load.OUT) as folder:
        bench = Bench(folder=Path(folder), sizes=sizes(chosen))
        run = Run(bench, peers.ready(chosen.peers), rounds)
        all_profiles = profiles(chosen.profiles)
        for number, profile in enumerate(all_profiles):
            for measure in measures:
                if measure.both_profiles or not number:
                    run.measure(measure, profile)
    write(run, facts)
    return int(any(" lading: " in failure for failure in run.failures))
