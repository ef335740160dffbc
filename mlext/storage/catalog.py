"""The model registry's SQL, put together: what the catalog's transactions get beside their own."""

from __future__ import annotations

from mlext.storage.aliases import AliasSql
from mlext.storage.clock import ClockSql
from mlext.storage.downloads import DownloadSql
from mlext.storage.lineage import LineageSql
from mlext.storage.search import SearchSql
from mlext.storage.versions import VersionSql

ROWS = (VersionSql, AliasSql, LineageSql, DownloadSql, SearchSql, ClockSql)
