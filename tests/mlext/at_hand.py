"""What a test asks of answers that are given from memory."""

from __future__ import annotations

import httpx

_OWN = {"date", "x-request-id"}


def plain(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return the answer without what is of one request alone."""
    fields = [(name, value) for name, value in answer.headers.multi_items() if name not in _OWN]
    return answer.status_code, fields, answer.content


def counted(client: httpx.Client, what: str, endpoint: str) -> float:
    """Return how many requests were counted, or timed: only the long way is timed."""
    return sum(
        float(line.split()[-1])
        for line in client.get("/metrics").text.splitlines()
        if line.startswith(f"{what}{{") and f'endpoint="{endpoint}"' in line
    )


def comes_from_memory(
    client: httpx.Client, method: str, target: str, endpoint: str, headers: dict[str, str]
) -> httpx.Response:
    """Return the first answer of two, of which the second took the short way and is the same."""
    cold = client.request(method, target, headers=headers)
    timed = counted(client, "lading_request_seconds_count", endpoint)
    requests = counted(client, "lading_requests_total", endpoint)

    hot = client.request(method, target, headers=headers)

    assert counted(client, "lading_request_seconds_count", endpoint) == timed
    assert counted(client, "lading_requests_total", endpoint) == requests + 1
    assert plain(hot) == plain(cold)
    assert hot.headers["x-request-id"] != cold.headers["x-request-id"]
    return cold
