"""`make bench`, third part: what rules cost. Manifest GET with a token beside GET by anyone on the
same registry, and tokens issued.

The registry has one core, the load another. The kinds of caller take turns in every round, so
that what drifts on the machine drifts for all of them.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

from bench import load, machine, material, peers
from bench.load import Script, play
from bench.material import MANIFEST
from bench.measures import CLIENTS, push_steps
from bench.peers import Launch
from bench.server import Server, running
from bench.suite import profiles

ISSUED = 4_000
RULES = """
[[rule]]
who = "robot:ci"
may = ["pull", "push"]
on = "bench"

[[rule]]
who = "anyone"
may = "pull"
on = "bench"
"""
TARGET = "/v2/bench/manifests/latest"
TOKEN = "/token?service=lading&scope=repository:bench:pull"
# What is asked: (label, key, least or most, whether the bound is the least).
TARGETS = (
    ("manifest GET with a token ÷ by anyone", "token_ratio", 0.8, True),
    ("token issued, p99 ms", "issue_p99", 20.0, False),
)
ROWS = (
    ("anyone", "manifest GET by anyone, per second"),
    ("token", "… with a token"),
    ("basic", "… with Basic, a robot's key"),
    ("open", "… on a registry without rules"),
    ("token_ratio", "with a token ÷ by anyone"),
    ("open_ratio", "by anyone, with rules ÷ without"),
    ("issue_rate", "tokens issued to a robot, per second, 16 clients"),
    ("issue_p50", "token issued, one client, p50 ms"),
    ("issue_p99", "… p99"),
)


def with_rules(folder: Path) -> tuple[peers.Peer, str]:
    """Return Lading under rules, and the Basic credentials of a robot that may push."""
    lading = next(peer for peer in peers.PEERS if peer.name == "lading")
    data = folder / "data"
    data.mkdir(parents=True)
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    program = lading.path() or lading.program
    command = [program, "robot", "add", "ci", "--catalog", f"sqlite:///{data}/catalog.db"]
    key = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def serve(launch: Launch) -> list[str]:
        return [*lading.command(launch), "--rules", str(rules)]

    return replace(lading, command=serve), base64.b64encode(f"ci:{key}".encode()).decode()


def fill(server: Server, folder: Path, field: str) -> None:
    script = Script(folder / "fill.script")
    push_steps(script, "bench", material.CONFIG, material.digest(material.CONFIG))
    script.step("PUT", TARGET, 201, material.manifest([], note="latest"), MANIFEST)
    play(server, script.save(), field=field)


def token(server: Server, basic: str) -> str:
    request = urllib.request.Request(f"http://{server.base}{TOKEN}")
    request.add_header("Authorization", f"Basic {basic}")
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])


def measure(scratch: Path, rounds: int, seconds: float) -> dict[str, float]:
    profile = profiles(["one"])[0]
    get = Script(scratch / "get.script").group().step("GET", TARGET, 200).save()
    issue = Script(scratch / "issue.script", ends_when_used=True)
    for _ in range(ISSUED):
        issue.group().step("GET", TOKEN, 200)
    issues = issue.save()
    guarded, basic = with_rules(scratch / "rules")
    lading = next(peer for peer in peers.PEERS if peer.name == "lading")
    found: dict[str, list[float]] = {}
    with (
        running(guarded, scratch / "rules", profile) as server,
        running(lading, scratch / "open", profile) as plain,
    ):
        known = f"Authorization: Basic {basic}"
        fill(server, scratch, known)
        fill(plain, scratch, "")
        bearer = f"Authorization: Bearer {token(server, basic)}"
        takes = {
            "anyone": (server, ""), "token": (server, bearer),
            "basic": (server, known), "open": (plain, ""),
        }  # fmt: skip
        for _ in range(rounds):
            for name, (asked, field) in takes.items():
                threads = profile.load_threads
                play(asked, get, connections=CLIENTS, threads=threads, seconds=seconds / 5,
                     field=field)  # fmt: skip
                played = play(asked, get, connections=CLIENTS, threads=threads, seconds=seconds,
                              field=field)  # fmt: skip
                found.setdefault(name, []).append(played.rate)
            alone = play(server, issues, field=known)
            crowd = play(server, issues, connections=CLIENTS, field=known)
            found.setdefault("issue_p50", []).append(alone.p50_ms)
            found.setdefault("issue_p99", []).append(alone.p99_ms)
            found.setdefault("issue_rate", []).append(crowd.rate)
    medians = {key: statistics.median(values) for key, values in found.items()}
    return medians | {
        "token_ratio": medians["token"] / medians["anyone"],
        "open_ratio": medians["anyone"] / medians["open"],
    }


def markdown(figures: dict[str, float], facts: machine.Facts) -> str:
    lines = ["## With rules in force", "", "| | |", "|---|---:|"]
    lines += [f"| {label} | {figures[key]:,.3g} |" for key, label in ROWS]
    lines += ["", "| asked | bound | found | |", "|---|---:|---:|---|"]
    for label, key, bound, is_least in TARGETS:
        reached = figures[key] >= bound if is_least else figures[key] <= bound
        verdict = "reached" if reached else "missed"
        lines.append(f"| {label} | {bound} | {figures[key]:.3g} | {verdict} |")
    load_before = facts["load_average_before"]
    lines += ["", f"{facts['processor']}, {facts['cores']} cores; load before: {load_before}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    quick = parser.parse_args().quick
    load.build()
    facts = machine.facts(load.OUT)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=load.OUT) as scratch:
        figures = measure(Path(scratch), 1 if quick else 5, 1 if quick else 3)
    (load.OUT / "access.json").write_text(json.dumps({"machine": facts, "figures": figures}))
    text = markdown(figures, facts)
    (load.OUT / "access.md").write_text(text)
    print(text)
    return 0
