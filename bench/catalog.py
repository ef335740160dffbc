"""The list of measures, in the order of the tables, with what each row is called."""

from __future__ import annotations

from bench import clients
from bench.measures import (
    fill_blob,
    fill_manifests,
    fill_pages,
    take_artifacts,
    take_blob,
    take_manifests,
    take_pages,
    take_push,
    take_push_four,
)
from bench.plan import Measure, Row

PER_GIB = "CPU s/GiB"
PER_THOUSAND = "CPU s per 1,000"

MEASURES = (
    Measure(
        name="manifest",
        rows=(
            Row(key="rate", label="manifest GET by tag, 16 connections, /s", more_is_better=True),
            Row(key="p50", label="… p50, ms"),
            Row(key="p99", label="… p99, ms"),
            Row(key="cpu", label=f"… {PER_THOUSAND}"),
            Row(key="many", label="… over the 64 tags of a repository, /s", more_is_better=True),
        ),
        fill=fill_manifests,
        take=take_manifests,
        static=True,
    ),
    Measure(
        name="blob",
        rows=(
            Row(key="one", label="blob GET of {blob}, 1 connection, GB/s", more_is_better=True),
            Row(key="four", label="… 4 connections, GB/s", more_is_better=True),
            Row(key="cpu", label=f"… {PER_GIB}, 1 connection"),
        ),
        fill=fill_blob,
        take=take_blob,
        static=True,
    ),
    Measure(
        name="push",
        rows=(
            Row(key="rate", label="push of {blob}, POST + PUT, GB/s", more_is_better=True),
            Row(key="seconds", label="… seconds to the 201"),
            Row(key="cpu", label=f"… {PER_GIB}"),
        ),
        take=take_push,
    ),
    Measure(
        name="push4",
        rows=(
            Row(key="rate", label="push of {blob} in 4 blobs at once, GB/s", more_is_better=True),
            Row(key="cpu", label=f"… {PER_GIB}"),
        ),
        take=take_push_four,
    ),
    Measure(
        name="artifacts",
        rows=(
            Row(key="rate", label="small artifacts pushed, 16 clients, /s", more_is_better=True),
            Row(key="p50", label="… p50, ms"),
            Row(key="p99", label="… p99, ms"),
            Row(key="cpu", label=f"… {PER_THOUSAND}"),
        ),
        take=take_artifacts,
    ),
    Measure(
        name="pages",
        rows=(
            Row(key="tags_p50", label="page of 1,000 of {tags} tags, p50, ms"),
            Row(key="tags_p99", label="… p99, ms"),
            Row(key="referrers_p50", label="page of {referrers} referrers, p50, ms"),
            Row(key="referrers_p99", label="… p99, ms"),
        ),
        fill=fill_pages,
        take=take_pages,
        both_profiles=False,
    ),
    Measure(
        name="start",
        rows=(Row(key="seconds", label="start to first answer, s"),),
        take=clients.take_start,
        static=True,
        both_profiles=False,
    ),
    Measure(
        name="model",
        rows=(
            Row(key="push", label="model folder of {model}, oras push, s"),
            Row(key="pull", label="… oras pull, s"),
            Row(key="cpu", label=f"… {PER_GIB}, both ways"),
        ),
        take=clients.take_model,
    ),
    Measure(
        name="stream",
        rows=(
            Row(key="peak_in", label="{stream} streamed in: peak of the worker, MiB"),
            Row(key="peak", label="… and out: peak of the worker, MiB"),
            Row(key="in_seconds", label="… seconds in"),
            Row(key="in_cpu", label=f"… {PER_GIB} in"),
            Row(key="out_seconds", label="… seconds out"),
            Row(key="out_cpu", label=f"… {PER_GIB} out"),
            Row(key="finish_mib", label="closing PUT after 1 MiB, ms"),
            Row(key="finish_gib", label="… after 1 GiB, ms"),
            Row(key="finish_whole", label="… after {stream}, ms"),
        ),
        take=clients.take_stream,
        both_profiles=False,
        once=True,
        fits=lambda peer: peer.name == "lading",
    ),
)
