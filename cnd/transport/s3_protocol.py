"""The objects in S3 by which instances without SSH get orders, and report.

One rule: an instance gets no credentials.  It gets URLs that read three objects and a
signed form that writes objects whose names begin with the run's ``Instance``; all of
them end with the instances' lifetime.

One user data serves a whole batch (EC2 allows it 16 KB): what differs, an instance
works out from its place in the batch.  Types with GPUs have a user data of their own.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import py_compile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cnd import s3logs
from cnd.cloud.failures import translated
from cnd.model.catalog import has_gpu
from cnd.model.plan import MAX_LIFETIME, Plan
from cnd.model.s3_requests import pace
from cnd.on_instance import agent
from cnd.transport import orphans, payload

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

TOKEN = "X-Amz-Security-Token"  # in the query of a signed URL
MACHINES = ("x86_64", "aarch64")
MESSAGE = "word.json"  # under the run's prefix: the object that all instances poll
REPORTS = f"{s3logs.LOGS}Instance"  # the prefix of the objects that they put


# A class that an instance takes over: its number, the first nonce, seconds; in a run
# that resumes another one also its residue and modulus.
HandedPart = tuple[float, ...]


@dataclass(frozen=True)
class ControlMessage:
    """The message of the orchestrator to all instances; see `agent.ControlMessage`."""

    beat: int
    stop: bool = False
    parts: Mapping[str, Sequence[HandedPart]] | None = None  # by names of instances
    # name of an instance -> names of parts that others search by now
    given_away: Mapping[str, Sequence[str]] | None = None

    def encoded(self) -> bytes:
        record = {
            **asdict(self),
            "parts": dict(self.parts or {}),
            "given_away": dict(self.given_away or {}),
        }
        return json.dumps(record).encode()


@functools.cache
def bundle(machine: str, *, gpu: bool = False) -> bytes:
    """Return the files for a machine (`uname -m`) as a ZIP archive.

    `gpu`: whether its instances may have a GPU.
    It has its modules compiled as well, for hosts with this process's Python version.
    """
    code = payload.code(machine, gpu=gpu)
    files = {**code, "agent.py": Path(agent.__file__).read_bytes()}
    for name in ("agent.py", *payload.COMMON):
        files[importlib.util.cache_from_source(name)] = _compiled(name, files[name])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _compiled(name: str, source: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(source)
        target = str(path) + "c"
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(
            str(path), target, dfile=name, doraise=True, invalidation_mode=unchecked
        )
        return Path(target).read_bytes()


def bundle_name(machine: str, *, gpu: bool = False) -> str:
    """Return the name of the object that holds a bundle."""
    return f"{machine}{'-gpu' * gpu}.zip"


def send(
    s3: S3Client, bucket: str, run: str, owner: str, *, types: Iterable[str] = ("",)
) -> None:
    """Put the objects that instances of some types fetch into S3.

    The bucket must exist.
    """
    objects = {
        bundle_name(machine, gpu=gpu): bundle(machine, gpu=gpu)
        for machine in MACHINES
        for gpu in set(map(has_gpu, types))
    }
    for name, data in {**objects, MESSAGE: ControlMessage(0).encoded()}.items():
        put(s3, bucket, run, name, data, owner=owner)


def put(
    s3: S3Client, bucket: str, run: str, name: str, data: bytes, *, owner: str
) -> None:
    """Put an object under the run's prefix, in a bucket of the account `owner`."""
    key = s3logs.prefix(run) + name
    with translated(f"upload {name}"):
        s3.put_object(Bucket=bucket, Key=key, Body=data, **s3logs.owned(owner))


def boot(
    s3: S3Client,
    bucket: str,
    run: str,
    plan: Plan,
    *,
    polls_per_second: float,
    gpu: bool = False,
    patience: float | None = None,
) -> dict[str, Any]:
    """Return the orders for `agent.py` in the user data of a run's instances.

    They hold URLs that are signed for the instances' lifetime.

    Args:
        gpu: whether these instances may have a GPU.
        patience: seconds without a new message until an instance is an orphan, besides
            three looks for it; None: `orphans.PATIENCE`.
    """
    alone_after = orphans.PATIENCE if patience is None else patience
    hold = int(min(plan.lifetime, MAX_LIFETIME))
    rates = pace(plan.instances, polls_per_second)

    def url(name: str) -> str:
        return s3logs.presigned(s3, bucket, run, name, seconds=hold)

    def form(name: str, most: int) -> dict[str, Any]:
        return s3logs.form(s3, bucket, run, name, seconds=hold, most=most)

    return {
        "bundles": {
            machine: {
                "url": url(bundle_name(machine, gpu=gpu)),
                "sha256": hashlib.sha256(bundle(machine, gpu=gpu)).hexdigest(),
            }
            for machine in MACHINES
        },
        "word": url(MESSAGE),
        "report": form(REPORTS + "${filename}", agent.MOST_REPORT),
        "prefix": s3logs.prefix(run) + s3logs.LOGS,
        "poll": rates.poll,
        "look": rates.look,
        "every": rates.every,
        "patience": alone_after + 3 * rates.poll,
        "lifetime": plan.lifetime,
        "waits": bool(plan.work),
        "job": {
            "run": run,
            "block": plan.block,
            "difficulty": plan.difficulty,
            "of": plan.instances,
            "nonces": plan.nonces,
            "time_limit": plan.time_limit,
            "kernel": plan.kernel,
            # No more often than twice a report; the end is reported at once.
            "progress": max(plan.progress, rates.every / 2),
            "witness_bits": plan.witness_bits,
            "script": "",
        },
        "keeper": {
            "patience": alone_after,
            "poll": orphans.POLL,
            "shutdown": not plan.keep,
            "spot": plan.market != "on-demand",
            "result_get": url(orphans.RESULT),
            "result_form": form(orphans.RESULT, orphans.MOST_RESULT),
        },
    }


def token_of(boot: Mapping[str, Any]) -> str:
    """Return the session token in the URLs of `boot`; "" if they carry none."""
    return next(iter(parse_qs(urlsplit(boot["word"]).query).get(TOKEN, ())), "")
