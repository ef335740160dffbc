"""What an operator sees: Prometheus metrics and one structured line per request.

A line is a JSON object. Lines are gathered and written ten times a second, so that a hot read pays
for a string and no system call.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FLUSH_SECONDS = 0.1
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of this process; with several workers, of all of them (prometheus_client's files).

    The folder for those files is named by PROMETHEUS_MULTIPROC_DIR, which `lading serve` sets.
    """

    def __init__(self) -> None:
        own = self._own = CollectorRegistry()
        counter, gauge = partial(Counter, registry=own), partial(Gauge, registry=own)
        self._requests = counter(
            "lading_requests", "Requests answered.", ("endpoint", "method", "status")
        )
        self._seconds = Histogram(
            "lading_request_seconds",
            "From a request's head to its answer's last byte.",
            ("endpoint", "method"),
            buckets=_SECONDS,
            registry=own,
        )
        self.received = counter("lading_received_bytes", "Bytes of blobs and manifests taken in.")
        self.sent = counter("lading_sent_bytes", "Bytes of bodies sent.")
        self.under_way = gauge(
            "lading_requests_under_way",
            "Requests not yet answered in full.",
            multiprocess_mode="livesum",
        )
        self.sparse = counter(
            "lading_sparse_manifests", "Manifests taken whose content is not all here."
        )
        self.expired = counter("lading_uploads_expired", "Upload sessions ended for idleness.")
        self.overdue = counter(
            "lading_connections_overdue", "Connections closed for keeping us waiting."
        )
        self._refused = counter(
            "lading_refused",
            "Requests refused by a rule or a limit, and failed logins.",
            ("reason",),
        )
        self.folded = counter(
            "lading_audit_folded",
            "Refusals counted in an event of the audit, not recorded each by itself.",
        )
        self._count_collections(counter, gauge)
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._hot: dict[tuple[str, bytes, int], int] = defaultdict(int)
        self._hot_bytes = 0

    def _count_collections(
        self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]
    ) -> None:
        self._collected = counter("lading_collected", "Rows that a collection took.", ("kind",))
        self._collected_bytes = counter("lading_collected_bytes", "Bytes of collected blobs.")
        self.deleted = counter(
            "lading_objects_deleted", "Discarded objects deleted from the store."
        )
        self.undeleted = counter(
            "lading_objects_undeleted", "Times that the store did not delete a discarded object."
        )
        self._last_collection = gauge(
            "lading_last_collection_timestamp_seconds",
            "When this server last ended a collection.",
            multiprocess_mode="max",
        )

    def answered(self, endpoint: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (endpoint, method, status)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (
                self._requests.labels(endpoint, method, status),
                self._seconds.labels(endpoint, method),
            )
        children[0].inc()
        children[1].observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal: by a rule (`denied`), a failed `login`, or which limit was met."""
        self._refused.labels(reason).inc()

    def collected(self, manifests: int, links: int, blobs: int, size: int) -> None:
        """Count what a collection took, now that it has ended."""
        for kind, count in (("manifest", manifests), ("link", links), ("blob", blobs)):
            self._collected.labels(kind).inc(count)
        self._collected_bytes.inc(size)
        self._last_collection.set_to_current_time()

    def hot(self, endpoint: str, method: bytes, status: int, size: int) -> None:
        """Count one request answered at once; `fold` adds these up for the scrape."""
        self._hot[endpoint, method, status] += 1
        self._hot_bytes += size

    def fold(self) -> None:
        """Bring the counts of hot answers into the counters. Their time is not measured."""
        for (endpoint, method, status), count in self._hot.items():
            self._requests.labels(endpoint, method.decode(), status).inc(count)
        self._hot.clear()
        self.sent.inc(self._hot_bytes)
        self._hot_bytes = 0

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        self.fold()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._own)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class AccessLog:
    """One JSON line per request, on a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._second = 0
        self._stamp = ""

    def line(  # noqa: PLR0913, PLR0917 - the fields of one flat record
        self,
        request_id: str,
        client: str,
        method: str,
        path: str,
        status: int,
        size: int,
        seconds: float,
    ) -> None:
        """Add a line. A status of 499 says that the client left before its answer was whole."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        self._lines.append(
            f'{{"time":"{self._stamp}.{int(now % 1 * 1000):03}Z","level":"info","event":"request",'
            f'"request_id":"{request_id}","client":"{client}","method":"{method}",'
            f'"path":{_quoted(path)},"status":{status},"bytes":{size},'
            f'"ms":{seconds * 1000:.3f}}}\n'
        )

    def flush(self) -> None:
        """Write what was gathered."""
        lines, self._lines = self._lines, []
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except OSError:
            # The reader of our log is gone or its disk full: serving goes on.
            return


def _quoted(text: str) -> str:
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text}"' if plain else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """Everything else that is logged, as JSON lines of the same shape."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str) -> None:
    """Send every logger's lines to standard error, uvicorn's included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    # What libraries say at `debug` holds signed URLs, and whoever has one can read that blob.
    root.setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    logging.getLogger("lading").setLevel(level.upper())
