"""Push, run and fetch, by CND and by other programs, on the same hosts.

One rule: what is launched here is seen terminated here, whatever happens.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from cnd import ec2, sqs
from cnd import pow as worker
from cnd.bench import other_tools
from cnd.bench.other_tools import TrialTask
from cnd.bench.run_cost import Trial
from cnd.cloud.connection import Cloud
from cnd.errors import HostError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.run_name import new_run
from cnd.provision.launch import Launcher
from cnd.provision.prepare import Provision, prepare
from cnd.provision.scram import scram
from cnd.run.journal import Journal
from cnd.transport import payload
from cnd.transport.fleet import Part
from cnd.transport.keys import UserKey
from cnd.transport.ssh_fleet import SshFleet

OURS = "CND"
NONCES = 1000  # for each host: not the search is measured, but push and fetch
LOOK = 0.2  # seconds between two looks at which instances run


def comparison_plan(instances: int) -> Plan:
    """Return the plan of the fleet and of CND's own part: nothing can be found."""
    return Plan(
        64,
        instances,
        3600.0,
        nonces=NONCES * instances,
        kernel="hashlib",  # the other programs push no library
        bootstrap="ssh",
        keep=True,
    )


def compare(cloud: Cloud, plan: Plan, key: UserKey, *, first: int = 0) -> list[Trial]:
    """Launch a fleet, let every program do the task on it, terminate it.

    Args:
        first: which program begins; a number that grows from one comparison to the
            next gives each of them its turn.

    Raises:
        CloudError: the fleet could not be launched.
        HostError: not all of its hosts answered.
        LeakError: not all of it was seen terminated.
    """
    run = new_run()
    provision = prepare(cloud, plan, run=run, key=key)
    launched: list[ec2.Instance] = []
    try:
        launcher = Launcher(cloud, plan, run)
        count = plan.instances
        launched = launcher.launch(
            provision, count, least=count, emit=_ignored, wait=_slept
        )
        hosts = _answering(cloud, plan, run)
        return _trials(cloud, plan, provision, hosts, first)
    finally:
        scram(cloud, run, groups=[], known=[instance.id for instance in launched])
        sqs.delete(cloud.sqs, provision.queue)


def _ignored(event: Event) -> None:
    """Take an event of the launch: no run is recorded."""


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _answering(cloud: Cloud, plan: Plan, run: str) -> list[ec2.Instance]:
    """Return the fleet once SSH answers on every host of it."""
    deadline = time.monotonic() + plan.boot_allowance
    found: dict[str, ec2.Instance] = {}
    while len(found) < plan.instances:
        if time.monotonic() >= deadline:
            missing = plan.instances - len(found)
            raise HostError("the fleet", f"{missing} hosts did not answer in time")
        for instance in ec2.find(cloud.ec2, run=run, states=("running",)):
            if instance.id not in found and _answers(instance):
                found[instance.id] = instance
        time.sleep(LOOK)
    return list(found.values())


def _answers(instance: ec2.Instance) -> bool:
    if instance.address is None:  # AWS has not said yet
        return False
    try:
        place = (instance.address, instance.ssh_port)
        with socket.create_connection(place, timeout=5) as link:
            return bool(link.recv(1))
    except OSError:
        return False


def _trials(
    cloud: Cloud,
    plan: Plan,
    provision: Provision,
    hosts: list[ec2.Instance],
    first: int,
) -> list[Trial]:
    def ours(task: TrialTask) -> None:
        _by_fleet(cloud, plan, provision, hosts, task)

    programs: Mapping[str, Callable[[TrialTask], None]] = {
        OURS: ours,
        **other_tools.installed(),
    }
    names = list(programs)
    turns = names[first % len(names) :] + names[: first % len(names)]
    trials = []
    for name in turns:
        with tempfile.TemporaryDirectory(prefix="cnd-comparison-") as folder:
            task = TrialTask(
                name=f"trial-{time.time_ns()}",
                hosts=[(host.address or "", host.ssh_port) for host in hosts],
                user=provision.login.user,
                key=provision.login.key,
                host_key=provision.login.host_key,
                program=Path(worker.__file__),
                nonces=NONCES,
                folder=Path(folder),
            )
            trials.append(_trial(name, programs[name], task))
    return sorted(trials, key=lambda trial: names.index(trial.who))


def _trial(name: str, do: Callable[[TrialTask], None], task: TrialTask) -> Trial:
    """Let one program do the task; its children's processor time is included."""
    began, spent = time.monotonic(), sum(os.times()[:4])
    do(task)
    return Trial(
        who=name,
        instances=len(task.hosts),
        seconds=time.monotonic() - began,
        processor=sum(os.times()[:4]) - spent,
        done=task.done,
    )


def _by_fleet(
    cloud: Cloud,
    plan: Plan,
    provision: Provision,
    hosts: list[ec2.Instance],
    task: TrialTask,
) -> None:
    """Do the task as a run does it, with everything that a run pushes."""
    journal = Journal(task.name, task.folder)
    journal.create()
    events: SimpleQueue[Event] = SimpleQueue()
    fleet = SshFleet(
        replace(plan, boot_allowance=other_tools.PATIENCE),
        journal,
        provision.login,
        code=lambda _, machine: payload.code(machine, plan.kernel),
        alone=lambda instance, name: {},  # no orders: its watchdog goes at once
        put=events.put,
        at_once=cloud.hosts_at_once,
    )
    try:
        for i, host in enumerate(hosts):
            fleet.serve(host, f"Instance{i}", [Part(i, i)])
        left, deadline = len(hosts), time.monotonic() + other_tools.PATIENCE
        while left and time.monotonic() < deadline:
            try:
                event = events.get(timeout=1)
            except Empty:
                continue
            left -= event.kind == "host.done"
    finally:
        fleet.close()
