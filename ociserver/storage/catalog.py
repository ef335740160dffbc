"""The catalog's SQL, put together: one transaction as plain methods over SQLAlchemy Core.

Each group of rows has a module: `manifests.py`, `blobs.py`, `uploads.py`, `leasing.py`,
`collection.py`, `scrubbing.py`, `access.py`, `auditing.py`. The engines (`sqlite.py`,
`postgres.py`) run these methods.
"""

from __future__ import annotations

from ociserver.storage.access import PrincipalSql, TokenSql
from ociserver.storage.auditing import AuditSql
from ociserver.storage.collection import CollectionSql
from ociserver.storage.leasing import LeaseSql
from ociserver.storage.scrubbing import ScrubSql
from ociserver.storage.uploads import UploadSql


class SqlCatalogTx(CollectionSql, UploadSql, ScrubSql, LeaseSql, PrincipalSql, TokenSql, AuditSql):
    """`ports.CatalogTx` over one connection inside one transaction."""
