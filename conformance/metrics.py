"""What a registry has counted of its answers; nothing where it counts nothing."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


def answers(address: str, **labels: str) -> int:
    """How many answers with these labels (`method`, `status`) the registry has given."""
    reply = httpx.get(f"http://{address}/metrics", timeout=10, trust_env=False)
    if reply.status_code != 200:
        return 0
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
        if sample.name == "lading_requests_total" and labels.items() <= sample.labels.items()
    )


def redirects(address: str) -> int:
    """How many downloads it has sent to its blob store."""
    return answers(address, method="GET", status="307")
