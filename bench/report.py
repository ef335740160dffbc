"""The run as markdown: a table per profile, memory, the targets, and what to know when reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.catalog import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.plan import Measure, Row

REGISTRIES = ("distribution", "zot", "olareg")
LABELS = {"one": "One worker on one core, load on another", "all": "All cores against all cores"}

Cells = dict[tuple[str, str, str], dict[str, float]]


def size(count: float) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.3g} GiB"
    return f"{count / (1 << 20):.3g} MiB"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart, a dash for what was not measured."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    names = list(head)
    rule = ["---", *["---:"] * (len(names) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, rule, *lines)) + "\n"


def _ratio(ours: float | None, other: float | None) -> str:
    return f"{ours / other:.2f}" if ours is not None and other else "—"


def _best(row: Row, values: Mapping[str, float]) -> float | None:
    found = [values[peer] for peer in REGISTRIES if peer in values]
    if not found:
        return None
    return max(found) if row.more_is_better else min(found)


def _row(row: Row, label: str, values: Mapping[str, float], peers: list[str]) -> list[str]:
    ours = values.get("lading")
    ratios = (values.get("distribution"), values.get("nginx"), _best(row, values))
    figures = [number(values.get(peer)) for peer in peers]
    return [label, *figures, *(_ratio(ours, other) for other in ratios)]


def _rows(
    measure: Measure, cells: Cells, profile: str, peers: list[str], words: dict[str, str]
) -> list[list[str]]:
    lines = []
    for row in measure.rows:
        values = {
            peer: cells[profile, measure.name, peer][row.key]
            for peer in peers
            if row.key in cells.get((profile, measure.name, peer), {})
        }
        if values:
            lines.append(_row(row, row.label.format(**words), values, peers))
    return lines


def _words(sizes: Mapping[str, float]) -> dict[str, str]:
    def filled(own: float, other: float) -> str:
        return f"{own:,.0f} (peers: {other:,.0f})"

    return {
        "blob": size(sizes["blob"]),
        "stream": size(sizes["stream"]),
        "model": f"{3 * sizes['shard'] / 1e6:.0f} MB",
        "tags": filled(sizes["tags"], sizes["peer_tags"]),
        "referrers": filled(sizes["referrers"], sizes["peer_referrers"]),
    }


def _figures(content: Mapping[str, Any], peers: list[str]) -> str:
    cells = {
        (each["profile"], each["measure"], each["peer"]): each["median"]
        for each in content["results"]
    }
    words = _words(content["sizes"])
    head = ["", *peers, "lading ÷ distribution", "lading ÷ nginx", "lading ÷ best peer"]
    parts = []
    for profile, label in LABELS.items():
        lines = [
            line for measure in MEASURES for line in _rows(measure, cells, profile, peers, words)
        ]
        if lines:
            parts.append(f"### {label}\n\n{_table(head, lines)}")
    return "\n".join(parts)


def _memory(content: Mapping[str, Any], peers: list[str]) -> str:
    peaks = {
        (each["profile"], each["measure"], each["peer"]): each["peak_mib"]
        for each in content["results"]
    }
    lines = []
    for profile, label in LABELS.items():
        for measure in MEASURES:
            values = [peaks.get((profile, measure.name, peer)) for peer in peers]
            if any(values):
                name = f"{measure.name}, {label.split(',')[0].lower()}"
                lines.append([name, *(number(value) for value in values)])
    return "### Peak memory of the server's processes together, MiB\n\n" + _table(
        ["", *peers], lines
    )


def _targets(content: Mapping[str, Any]) -> str:
    words = {True: "reached", False: "**missed**", None: "not measured"}
    lines = [
        [each["label"], each["asked"], each["found"], words[each["reached"]]]
        for each in content["targets"]
    ]
    return "### Targets, on one core\n\n" + _table(["", "asked", "found", ""], lines)


def _load_busy(result: Mapping[str, Any]) -> float:
    return float(result["median"].get("load_busy", 0.0))


def _notes(content: Mapping[str, Any]) -> str:
    facts = content["machine"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB memory.",
        f"Load average before the run: {facts['load_average_before']}.",
        f"{facts['filesystem']}, Linux {facts['kernel']}, Python {facts['python']}.",
        f"Medians over {content['rounds']} round(s); peers take turns in each, servers run alone.",
        "Blobs are unique and do not compress.",
        "A ratio of times or of CPU is good below 1.",
        "CPU is user and system time of the server's processes.",
        "Peak memory is the sum of their VmHWM: pages that forked workers share count in each.",
    ]
    busiest = max(content["results"], key=_load_busy, default=None)
    if busiest:
        lines.append(
            f"The load generator ran for at most {_load_busy(busiest):.0%} of the time "
            f"({busiest['peer']}, {busiest['measure']}); near 100% it bounds the figure."
        )
    lines += [
        f"{name} {peer['version']}: {peer['durable']}." for name, peer in content["peers"].items()
    ]
    lines += [f"FAILED: {' '.join(failure.split())[:300]}" for failure in content["failures"]]
    return "### How to read it\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def markdown(content: Mapping[str, Any]) -> str:
    peers = list(content["peers"])
    parts = (_figures(content, peers), _memory(content, peers), _targets(content), _notes(content))
    return "## Bench\n\n" + "\n".join(parts)
