"""What botocore knows of the services of AWS, read in less time than it takes itself.

One rule: a client gets what botocore would have given it.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from collections.abc import Sequence
from typing import Any

from botocore.loaders import JSONFileLoader, Loader

MOST_KEPT = 64  # files; the clients of a run read some twenty
# What was read ahead of files that may be written into: each is handed out once.
_ahead: dict[str, Any] = {}


def read_fast(loader: Loader) -> None:
    """Have a session's loader read fast."""
    loader.file_loader = Models()
    services = functools.partial(_services, loader)
    loader.list_available_services = services  # type: ignore[method-assign]


class Models(JSONFileLoader):
    """Reads what botocore knows of services as plain dicts.

    It makes ordered ones, in twice the time: 25 ms of computing for every command
    that asks EC2 (botocore 1.44, measured).  What it ships of a service is read once
    in a process; but S3's, as "endpoints", is not kept: botocore writes into these.
    """

    def load_file(self, file_path: str) -> Any:
        if _is_constant(file_path):
            return _read_once(file_path)
        return _ahead.pop(file_path, None) or _read(file_path)


def read_ahead(services: Sequence[str]) -> None:
    """Read what the first clients of these services need: for a process that forks."""
    shipped = [Loader.BUILTIN_DATA_PATH]
    loader = Loader(shipped, include_default_search_paths=False)
    read_fast(loader)
    names = ["endpoints", "partitions"]
    for service in services:
        for kind in ("service-2", "endpoint-rule-set-1"):
            version = loader.determine_latest_version(service, kind)
            names.append(f"{service}/{version}/{kind}")
    for name in names:
        found, path = loader.load_data_with_path(name)
        if not _is_constant(path):
            _ahead[path] = found


def skip_errors(client: Any) -> None:
    """Spare a client of EC2 the search for the errors that its service describes.

    It describes none, and botocore looks through four thousand shapes for them when a
    first call is refused: 12 ms of computing for most runs (botocore 1.44, measured).
    """
    if client.meta.service_model.service_name == "ec2":
        client.meta.service_model.error_shapes = []


def _is_constant(file_path: str) -> bool:
    """Return whether botocore ships a file, and only reads what is in it."""
    shipped = file_path.startswith(Loader.BUILTIN_DATA_PATH)
    return shipped and file_path.endswith("/service-2") and "/s3/" not in file_path


def _read(file_path: str) -> Any:
    for path, opened in (
        (f"{file_path}.json", open),
        (f"{file_path}.json.gz", gzip.open),
    ):
        if os.path.isfile(path):
            with opened(path, "rb") as file:
                return json.load(file)
    return None


_read_once = functools.lru_cache(MOST_KEPT)(_read)


def _services(loader: Loader, type_name: str) -> list[str]:
    """Return the services that botocore has a folder of, whatever is in it.

    It looks for a file of the wanted type in each of some four hundred, three times:
    15 ms of computing for every command that calls AWS (botocore 1.44, measured).
    """
    folders = [path for path in loader.search_paths if os.path.isdir(path)]
    return sorted({name for path in folders for name in os.listdir(path)})
