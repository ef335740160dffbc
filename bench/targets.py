"""The targets of the project's first issue, each judged from the run's one-core medians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.suite import Result

REGISTRIES = ("distribution", "zot", "olareg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Lading's figure, at least `bound` times the best of `than`, or below `bound` itself."""

    label: str
    measure: str
    key: str
    bound: float
    than: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was asked, what was found, in words; reached is None when it was not measured."""

    label: str
    asked: str
    found: str
    reached: bool | None


def _times(label: str, measure: str, key: str, bound: float, *than: str) -> Target:
    return Target(label=label, measure=measure, key=key, bound=bound, than=than)


TARGETS = (
    _times("manifest GET beside distribution", "manifest", "rate", 5, "distribution"),
    _times("manifest GET beside zot", "manifest", "rate", 2.5, "zot"),
    _times("manifest GET beside olareg", "manifest", "rate", 1, "olareg"),
    _times("manifest GET beside nginx (aim)", "manifest", "rate", 0.6, "nginx"),
    _times("blob GET beside nginx", "blob", "one", 0.95, "nginx"),
    _times("blob push beside the best peer", "push", "rate", 1.5, *REGISTRIES),
    _times("small artifacts beside distribution", "artifacts", "rate", 1.5, "distribution"),
    _times("small artifacts beside zot", "artifacts", "rate", 2, "zot"),
    _times("page of tags, p99 ms", "pages", "tags_p99", 50),
    _times("page of referrers, p99 ms", "pages", "referrers_p99", 50),
    _times("peak MiB of a worker, stream in and out", "stream", "peak", 160),
    _times("start to first answer, s", "start", "seconds", 1.5),
)


def judge(results: Sequence[Result]) -> list[Verdict]:
    medians = {
        (result.measure, result.peer): result.median
        for result in results
        if result.profile == "one"
    }
    return [_verdict(target, medians) for target in TARGETS]


def _verdict(target: Target, medians: dict[tuple[str, str], dict[str, float]]) -> Verdict:
    def figure(peer: str) -> float | None:
        return medians.get((target.measure, peer), {}).get(target.key)

    asked = f"below {target.bound:g}"
    if target.than:
        asked = f"at least {target.bound:g} times" if target.bound != 1 else "more"
    ours = figure("lading")
    others = [(value, peer) for peer in target.than if (value := figure(peer))]
    if ours is None or (target.than and not others):
        return Verdict(label=target.label, asked=asked, found="not measured", reached=None)
    if not target.than:
        missed = ours / target.bound - 1
        return _judged(target.label, asked, f"{ours:.3g}", missed=missed)
    best, peer = max(others)
    ratio = ours / best
    missed = 1 - ratio / target.bound
    return _judged(target.label, asked, f"{ratio:.2f} times {peer}", missed=missed)


def _judged(label: str, asked: str, found: str, *, missed: float) -> Verdict:
    """`missed` is how far the figure falls short of the bound, as a share of the bound."""
    words = f"{found}, missed by {missed:.0%}" if missed > 0 else found
    return Verdict(label=label, asked=asked, found=words, reached=missed <= 0)
