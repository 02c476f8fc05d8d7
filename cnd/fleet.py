"""The hosts of a run, each served by a thread from its first answer to its log.

One rule: one host's failure is recorded and the others go on.  Threads only put
events; who reads them decides, and says `stop`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from cnd.ec2 import Instance
from cnd.errors import HostError
from cnd.events import Emit, Event, from_worker
from cnd.journal import Journal
from cnd.plan import BOOT_ALLOWANCE, Plan
from cnd.remote import Host, Login

# After the end, a host that has not answered yet is waited for this long, for its
# log.  It costs nothing: EC2 bills 60 s at least.
END_PATIENCE = 15.0  # seconds
# A connection that dropped is taken up again within this time, or the host is lost.
LOST_PATIENCE = 30.0  # seconds

LAST_WORDS = frozenset(
    f"worker.{word}" for word in ("found", "exhausted", "timeout", "stopped", "failed")
)


class Fleet:
    """Serves the instances it is given; `stop` ends the search, `close` everything."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        login: Login,
        *,
        files: Mapping[str, bytes],
        put: Emit,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._login = login
        self._files = files  # pushed to every host besides its job
        self._put = put
        self._folder = f"cnd-{journal.run}"
        self._boot_deadline = time.monotonic() + BOOT_ALLOWANCE
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self.threads: list[Future[None]] = []
        self._search_began: float | None = None
        self._pool = ThreadPoolExecutor(plan.instances, thread_name_prefix="host")

    def serve(self, instance: Instance, index: int) -> None:
        """Begin with a running instance; once each, from one thread."""
        host = Host(
            f"Instance{index}",
            instance.address or "",
            self._login,
            port=instance.ssh_port,
        )
        self._hosts[instance.id] = host
        self.threads.append(self._pool.submit(self._serve, host, instance.id, index))

    def stop(self) -> None:
        """Tell every worker to stop; its host's log is fetched after its last word."""
        self._boot_deadline = min(self._boot_deadline, time.monotonic() + END_PATIENCE)
        self._ending.set()
        for host in list(self._hosts.values()):
            host.stop()

    def drop(self, instance_id: str) -> None:
        """Give up an instance that is gone."""
        if host := self._hosts.get(instance_id):
            host.close()

    def close(self) -> None:
        """Close every connection; what is still under way ends with a failure."""
        self._ending.set()
        for host in list(self._hosts.values()):
            host.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- in the host's own thread

    def _serve(self, host: Host, instance_id: str, index: int) -> None:
        try:
            host.connect(lambda: self._boot_deadline)
            self._put(Event("instance.ready", index, instance_id))
            if not self._ending.is_set():
                self._search(host, instance_id, index)
            self._fetch_log(host, instance_id, index)
        except HostError as error:
            fields = {"reason": str(error)}
            self._put(Event("host.failed", index, instance_id, fields))
        finally:
            host.close()
            self._put(Event("host.done", index, instance_id))

    def _search(self, host: Host, instance_id: str, index: int) -> None:
        """Push and start the worker, and pass its events on until its last word."""
        remaining = self._remaining()
        if remaining <= 0:
            self._put(Event("host.late", index, instance_id))
            return
        job = json.dumps(self._job(index, remaining)).encode()
        host.push(self._folder, {**self._files, "job.json": job})
        if self._ending.is_set():
            return  # decided meanwhile: nobody needs this worker any more
        host.start(self._folder)
        position = 0
        while True:
            try:
                for line in host.follow(self._folder, position=position):
                    position += len(line) + 1
                    text = line.decode("utf-8", "replace")
                    event = from_worker(text, index=index, host=instance_id)
                    self._put(event)
                    if event.kind in LAST_WORDS:
                        return
                    if self._ending.is_set():
                        host.stop()  # it began after the word had gone round
            except HostError as error:
                self._reconnect(host, instance_id, index, error)

    def _reconnect(
        self, host: Host, instance_id: str, index: int, error: HostError
    ) -> None:
        """Take up a dropped connection; the search has gone on meanwhile."""
        fields = {"reason": str(error)}
        self._put(Event("host.reconnecting", index, instance_id, fields))
        patience = time.monotonic() + LOST_PATIENCE
        host.connect(
            lambda: (
                min(patience, self._boot_deadline)
                if self._ending.is_set()
                else patience
            )
        )

    def _remaining(self) -> float:
        """Return the seconds of search that are left; the first call starts them."""
        with self._lock:
            now = time.monotonic()
            if self._search_began is None:
                self._search_began = now
            return self._plan.time_limit - (now - self._search_began)

    def _job(self, index: int, time_limit: float) -> dict[str, object]:
        """Return the job file of a host: what `pow.py --job` reads."""
        plan = self._plan
        return {
            "run": self._journal.run,
            "block": plan.block,
            "difficulty": plan.difficulty,
            "index": index,
            "of": plan.instances,
            "nonces": plan.nonces,
            "time_limit": round(time_limit, 3),
        }

    def _fetch_log(self, host: Host, instance_id: str, index: int) -> None:
        path = self._journal.log(index)
        try:
            path.write_text(host.log(), encoding="utf-8")
        except (HostError, OSError) as error:
            fields = {"reason": str(error)}
            self._put(Event("log.failed", index, instance_id, fields))
        else:
            fields = {"path": str(path)}
            self._put(Event("log.pulled", index, instance_id, fields))
