"""The fleet that a plan needs: hosts over SSH, or hosts through S3.

One rule: a claim of the user's own worker is checked by that worker here, in the thread
of the host, before it becomes an event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cnd.cloud.connection import Cloud
from cnd.model.catalog import has_gpu
from cnd.model.claim import refutation
from cnd.model.events import Event
from cnd.provision.prepare import Provision
from cnd.run import custom_worker
from cnd.run.journal import Journal
from cnd.run.recorder import Recorder
from cnd.transport import orphans, payload
from cnd.transport.fleet import Fleet
from cnd.transport.s3_fleet import S3Fleet
from cnd.transport.ssh_fleet import SshFleet

Judge = Callable[[Event], Event]


def new_fleet(
    recorder: Recorder, cloud: Cloud, journal: Journal, provision: Provision
) -> Fleet:
    """Make the fleet of a run; it has no hosts yet."""
    plan = recorder.plan
    if not plan.without_ssh:
        return new_ssh_fleet(recorder, cloud, journal, provision)
    return S3Fleet(
        plan,
        journal,
        cloud.s3,
        provision.bucket,
        put=recorder.put,
        owner=provision.owner,
        polls_per_second=cloud.polls_per_second,
        search_began=recorder.search_began,
    )


def new_ssh_fleet(
    recorder: Recorder, cloud: Cloud, journal: Journal, provision: Provision
) -> SshFleet:
    """Make the fleet of a run whose hosts SSH reaches; it has none yet."""
    plan = recorder.plan
    alone = orphans.orders(
        cloud.s3,
        provision.bucket,
        journal.run,
        seconds=plan.lifetime,
        # A group would replace an instance that shuts down; its own timer ends it.
        shutdown=not (plan.keep or plan.hold),
        spot=plan.market != "on-demand",
        patience=cloud.orphan_patience,
        refused=lambda: provision.bucket_refused,
    )
    script, judged = _script(recorder, journal), judge(recorder, journal)

    def code(instance_type: str, machine: str) -> Mapping[str, bytes]:
        if script:
            return payload.code_with(script)
        return payload.code(machine, plan.kernel, gpu=has_gpu(instance_type))

    return SshFleet(
        plan,
        journal,
        provision.login,
        code=code,
        alone=alone,
        put=lambda event: recorder.put_patiently(judged(event)),
        at_once=cloud.hosts_at_once,
        search_began=recorder.search_began,
    )


def judge(recorder: Recorder, journal: Journal) -> Judge:
    """Return a function that adds a verdict to a claim of the user's own worker.

    It is called in the thread of the host that claims it: the check may take seconds.
    """
    script = _script(recorder, journal)

    def judged(event: Event) -> Event:
        plan, index = recorder.plan, event.index or 0
        if not script or event.kind != "worker.found" or recorder.search.best:
            return event
        if refutation(plan, index, event.fields.get("nonce")):
            return event  # the nonce is not of its class: no check is needed
        return custom_worker.judged(event, script, plan.words)

    return judged


def _script(recorder: Recorder, journal: Journal) -> Path | None:
    """Return the copy of the user's own worker in the run's folder, if there is one."""
    name = recorder.plan.script
    return journal.folder / name if name else None
