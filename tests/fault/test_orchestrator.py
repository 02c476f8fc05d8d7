"""The orchestrator may die at any moment: its fleet is taken over, or ends itself."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from cnd.local import Endpoint
from tests.fault.kills import appeared, kill, killed, newest
from tests.fault.truth import Victim, struck
from tests.support.faults import events_of, lay
from tests.support.forking import Process
from tests.support.processes import ended
from tests.support.runs import NONCES, events, told
from tests.support.terminal import BIN
from tests.support.waiting import eventually

SLOWLY = ("--t", "120")
SPACE = ("start", "--d", "30", "--nonces", str(NONCES), "--n", "3", *SLOWLY)
# The same for three times as long: all of it is searched while commands are typed.
LONG_SPACE = ("start", "--d", "30", "--nonces", str(3 * NONCES), "--n", "3", *SLOWLY)
# A search that goes on while commands are typed, however long that takes.
UNBOUNDED = ("start", "--d", "30", "--n", "3", *SLOWLY)
ORPHAN_PATIENCE = 8.0  # seconds here; by default 30, as README tells
SIGNED = b"x-amz-signature"


def stored(terminal: Victim, run: str) -> dict[str, bytes]:
    """Return what S3 has of a run, by name."""
    s3 = terminal.client("s3")
    # Runs of other tests may have made the bucket of another region.
    region = terminal.cloud().region
    names = (b["Name"] for b in s3.list_buckets()["Buckets"])
    (bucket,) = (name for name in names if name.endswith(f"-{region}"))
    prefix = f"runs/{run}/"
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): s3.get_object(Bucket=bucket, Key=item["Key"])[
            "Body"
        ].read()
        for item in found
    }


def test_an_attach_from_a_new_address_is_allowed_by_ssh(terminal: Victim) -> None:
    words = ("--d", "30", "--nonces", "2000", "--n", "1", *SLOWLY)
    folder = killed(terminal, "start", *words, when="instance.launched")
    ec2 = terminal.client("ec2")

    def groups() -> list[dict[str, Any]]:
        filters = [{"Name": "group-name", "Values": ["cnd-ssh"]}]
        found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return list(found)

    (group,) = groups()
    ec2.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
    )
    terminal.json("attach", folder.name, status=11)
    (permission,) = groups()[0]["IpPermissions"]
    assert [r["CidrIp"] for r in permission["IpRanges"]] == ["127.0.0.1/32"]


@pytest.mark.parametrize("when", ["instance.launched", "instance.ready"])
def test_a_run_that_was_killed_early_is_taken_over(terminal: Victim, when: str) -> None:
    folder = killed(terminal, *SPACE, when=when)
    result = terminal.json("attach", folder.name, status=11)
    assert result["tested"] - result["repeated"] == NONCES
    assert result["left_running"] == 0


def test_a_search_that_was_killed_is_taken_over_and_no_nonce_is_lost(
    terminal: Victim,
) -> None:
    folder = killed(terminal, *SPACE, when="worker.progress")
    time.sleep(1)  # the search goes on meanwhile
    status = terminal.json("status")
    assert f"`fab attach {folder.name}`" in status["runs"][-1]["stands"]
    result = terminal.json("attach", folder.name, status=11)
    assert (result["tested"], result["repeated"]) == (NONCES, 0)
    assert result["run"] == folder.name
    assert result["left_running"] == 0
    assert sorted(p.name for p in (folder / "logs").iterdir()) == [
        f"Instance{i}.log" for i in range(3)
    ]


def test_what_was_found_without_an_orchestrator_is_the_answer(terminal: Victim) -> None:
    # Its smallest golden nonce is 67103: two seconds of search.
    words = ("start", "--d", "4", "--block", "quiet 0", "--n", "2", *SLOWLY)
    folder = killed(terminal, *words, when="worker.started", of=2)
    hosts = [event["host"] for event in told(folder, "worker.started")]
    cloud = terminal.cloud()
    eventually(lambda: any("found" in events_of(cloud, h).read_text() for h in hosts))
    result = terminal.json("attach", folder.name)
    assert result["outcome"] == "found"
    assert worker.is_golden(result["hash"], 4)


def test_two_cannot_follow_one_run(terminal: Victim) -> None:
    folder = killed(terminal, *LONG_SPACE, when="worker.progress")
    first = terminal.spawn("attach", folder.name)
    eventually(lambda: told(folder, "run.attached"))
    second = terminal.run("attach", folder.name)
    assert second.returncode == 2
    assert f"followed already, by process {first.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 3  # which cloud; what; the way out
    code, _, _ = ended(first)
    assert code == 11
    third = terminal.run("attach", folder.name)
    assert third.returncode == 2
    assert "is over" in third.stderr


def test_start_names_a_fleet_without_an_orchestrator(terminal: Victim) -> None:
    folder = killed(terminal, *UNBOUNDED, when="worker.started")
    done = terminal.run("start", "--d", "1", "--n", "1")
    assert done.returncode == 0
    assert f"`fab scram --run {folder.name}` ends it" in done.stderr
    assert terminal.run("scram", "--run", folder.name).returncode == 0
    assert terminal.live() == []


def test_nothing_is_asked_of_a_fleet_without_an_orchestrator(terminal: Victim) -> None:
    """Nothing reads its queue: `stop` says so, and what does end it."""
    folder = killed(terminal, *UNBOUNDED, when="worker.started")
    for words in (("--run", folder.name), ()):
        asked = terminal.call("stop", *words)
        said = asked.stderr.splitlines()[-2:]
        assert (asked.returncode, asked.stdout) == (2, "")
        assert said[0].startswith(f"cnd: run {folder.name} has no orchestrator")
        assert f"`fab attach {folder.name}`" in said[1]
    assert terminal.run("scram", "--run", folder.name).returncode == 0


def test_an_orphaned_fleet_ends_by_itself_and_leaves_its_result(
    terminal: Victim,
) -> None:
    # Its smallest golden nonce is 735638: twelve seconds of search.
    words = ("start", "--d", "5", "--n", "3", "--t", "600", "--block", "orphans 49")
    terminal.environment["CND_LOCAL_ORPHAN_SECONDS"] = str(ORPHAN_PATIENCE)
    folder = killed(terminal, *words, when="worker.progress", of=3)
    died = time.monotonic()
    terminal.see_zero(died, within=150, every=1.0)
    assert terminal.seconds_to_zero[-1] > ORPHAN_PATIENCE - 3

    objects = stored(terminal, folder.name)
    logs = [f"logs/Instance{i}.log" for i in range(3)]
    reports = [f"logs/Instance{i}.json" for i in range(3)]
    assert sorted(objects) == [*sorted(logs + reports), "orphan.json"]
    nonce = json.loads(objects["orphan.json"])["nonce"]
    assert worker.is_golden(worker.digest("orphans 49", nonce), 5)
    assert all(b"cnd-keeper" in objects[name] for name in logs)

    assert f"found {nonce}" in terminal.json("status")["runs"][-1]["stands"]
    result = terminal.json("attach", folder.name)
    assert (result["outcome"], result["nonce"]) == ("found", nonce)
    assert result["left_running"] == 0
    assert len(list((folder / "logs").iterdir())) == 3


@pytest.mark.parametrize("way", ["ssh", "user-data"])
def test_pre_signed_urls_and_keys_stay_where_they_belong(
    terminal: Victim, way: str
) -> None:
    """In the job file of a host; where its user data has them, packed in the order."""
    # All of it is searched: by both hosts, whichever is ready first.
    space = ("start", "--d", "30", "--nonces", "1000", "--n", "2")
    result = terminal.json(*space, "--keep", "--bootstrap", way, status=11)
    folder = terminal.state / "cnd" / "runs" / result["run"]
    secret = terminal.cloud().secret_key.encode()
    texts = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(texts) >= 5
    objects = stored(terminal, result["run"])
    hosts = terminal.state / "cnd" / "local" / "hosts"
    files = (p for each in result["fleet"] for p in (hosts / each["id"]).rglob("*"))
    on_hosts = {p: p.read_bytes() for p in files if p.is_file()}
    for name, text in {**texts, **on_hosts, **objects}.items():
        assert secret not in text, name
    signed = [p for p, text in {**texts, **on_hosts}.items() if SIGNED in text.lower()]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in signed)
    names = sorted(path.name.partition("-")[0] for path in signed)
    assert (folder / "order.json").stat().st_mode & 0o777 == 0o600
    if way == "ssh":
        assert names == ["class", "class"]
    else:
        assert set(names) == {"boot.json"}
    assert not any(SIGNED in text.lower() for text in objects.values())
    terminal.run("scram")


def keep(terminal: Victim, count: int) -> None:
    """Have a run leave its instances up."""
    words = ("start", "--d", "1", "--n", str(count), "--keep", "--json")
    assert terminal.run(*words).returncode == 0


def test_scram_reaches_every_region(terminal: Victim) -> None:
    kept = ("start", "--d", "1", "--n", "1", "--keep", "--json")
    for region in ("us-east-1", "eu-west-2"):
        assert terminal.run(*kept, "--region", region).returncode == 0
    done = terminal.run("scram", "--all-regions")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 2
    assert terminal.json("status", "--region", "eu-west-2")["instances"] == []


def test_scram_ends_a_fleet_also_where_the_queues_are_refused(
    terminal: Victim, cloud: Endpoint
) -> None:
    keep(terminal, 1)
    lay(cloud, "sqs:*", code="AccessDenied", times="forever")
    done = terminal.run("scram")
    assert done.returncode == 0, done.stderr
    assert "AccessDenied" in done.stderr
    assert done.stdout.endswith("0 instances running\n")
    assert terminal.live() == []


def test_scram_ends_a_fleet_also_where_its_first_blow_is_refused(
    terminal: Victim, cloud: Endpoint
) -> None:
    keep(terminal, 2)
    lay(cloud, "ec2:DescribeTags", code="UnauthorizedOperation", times="forever")
    assert len(terminal.json("scram")["terminated"]) == 2
    assert struck(cloud) == 1
    assert terminal.live() == []


def test_scram_of_all_regions_goes_on_past_one_that_refuses(
    terminal: Victim, cloud: Endpoint
) -> None:
    keep(terminal, 1)
    lay(cloud, "ec2:DescribeInstances", code="UnauthorizedOperation")
    done = terminal.run("scram", "--all-regions")
    regions = terminal.client("ec2").describe_regions()["Regions"]
    first = min(region["RegionName"] for region in regions)
    assert done.returncode == 3, done.stderr
    assert f"{first}: could not list the instances" in done.stderr
    assert done.stdout.count("terminated i-") == 1
    assert "0 instances running" not in done.stdout


def test_a_launch_that_shows_only_after_its_orchestrator_died_is_found(
    terminal: Victim, cloud: Endpoint
) -> None:
    """The request is still on its way when each command lists the instances."""
    lay(cloud, "RunInstances", delay=20)
    before = set(terminal.runs())
    process = terminal.spawn(*SPACE)
    eventually(lambda: struck(cloud))
    folder = kill(terminal, process, before)
    assert terminal.live() == []
    stands = terminal.json("status")["runs"][-1]
    assert stands["run"] == folder.name
    assert "a launch was under way" in stands["stands"]
    done = terminal.run("start", "--d", "1", "--n", "1")
    assert f"run {folder.name} broke off while a launch was under way" in done.stderr
    scrammed = terminal.json("scram", CND_LOCAL_LISTED_SECONDS="20")
    assert len(scrammed["terminated"]) == 3
    assert told(folder, "run.aborted")[0]["terminated"] == 3
    assert terminal.run("scram").stdout == "nothing was running\n"


def test_a_run_is_stopped_by_a_scram_that_came_while_it_was_launched(
    terminal: Victim, cloud: Endpoint
) -> None:
    """Nothing was there yet to be scrammed, and it is not said that nothing is."""
    terminal.environment["CND_LOCAL_LISTED_SECONDS"] = "16"
    lay(cloud, "RunInstances", delay=10)
    process = terminal.spawn("start", "--d", "30", "--n", "2", *SLOWLY)
    eventually(lambda: struck(cloud))
    scram = terminal.spawn("scram")
    code, _, err = ended(process)
    assert code == 12, err
    assert scram.stderr is not None
    said = iter(scram.stderr.readline, "")  # it ends: scram looks on for 16 s
    assert any("may be under way" in line for line in said)
    scram.kill()  # it looks on for what else may come
    out, _ = scram.communicate(timeout=60)
    assert "nothing was running" not in out
    assert terminal.live() == []


def test_a_group_is_not_made_for_a_run_that_was_to_stop_before(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "ssm:GetParameter", delay=10)
    before = set(terminal.runs())
    process = terminal.spawn("start", "--d", "30", "--n", "2", "--hold", *SLOWLY)
    eventually(lambda: told(newest(terminal, before), "run.started"))
    terminal.hit(process)
    code, _, err = ended(process)
    assert code == 130, err
    assert told(newest(terminal, before), "instance.requested") == []


# What a run tells in each of its phases, up to the search ...
PHASES = (
    *("run.started", "instance.requested", "instance.launched", "instance.running"),
    *("instance.ready", "worker.started", "worker.progress"),
)
# ... and as it stops, fetches the logs and terminates.
LATE = ("worker.timeout", "log.pulled", "instance.terminated")


@pytest.mark.parametrize("when", PHASES + LATE)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_any_phase_leaves_nothing(
    terminal: Victim, when: str, times: int
) -> None:
    """Once: in order, with logs of what searched.  Twice: at once."""
    terminal.environment["CND_LOCAL_LISTED_SECONDS"] = "3"
    before = set(terminal.runs())
    limit = "2" if when in LATE else "120"
    words = ("--d", "30", "--n", "2", "--t", limit)
    process = terminal.spawn("start", *words)
    folder = appeared(terminal, before)
    eventually(lambda: told(folder, when), every=0.01)
    code = interrupted(terminal, process, times)
    # Who comes when the time is over all the same may find it said so, and who comes
    # when all is over may meet Python on its way out.
    assert code in ((10, 130, -signal.SIGINT) if when in LATE else (130,))
    if times == 1:
        searched = {f"Instance{e['index']}.log" for e in told(folder, "worker.started")}
        assert searched <= {path.name for path in (folder / "logs").iterdir()}
        assert len(told(folder, "run.ended")) == 1


def interrupted(terminal: Victim, process: Process, times: int) -> int:
    """Press Ctrl-C; return the exit status, once nothing lives any more."""
    for _ in range(times):
        asked = terminal.hit(process)
        time.sleep(0.05)
    code, _, err = ended(process)
    terminal.see_zero(asked, within=0)
    assert "Traceback" not in err
    return code


def attached(terminal: Victim) -> tuple[Process, Path]:
    """Kill a search and take it over; return who does so, following it by now."""
    words = ("start", "--d", "30", "--n", "2", *SLOWLY)
    folder = killed(terminal, *words, when="worker.progress")
    process = terminal.spawn("attach", folder.name)
    heard = len(told(folder, "worker.progress"))
    eventually(lambda: len(told(folder, "worker.progress")) > heard + 4)
    return process, folder


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_an_attached_run_as_any_other(terminal: Victim, times: int) -> None:
    process, folder = attached(terminal)
    assert interrupted(terminal, process, times) == 130
    if times == 1:
        logs = sorted(path.name for path in (folder / "logs").iterdir())
        assert logs == ["Instance0.log", "Instance1.log"]


@pytest.mark.parametrize("command", ["stop", "scram"])
def test_an_attached_run_is_stopped_and_scrammed_as_any_other(
    terminal: Victim, command: str
) -> None:
    process, folder = attached(terminal)
    terminal.faults += 1
    asked = time.monotonic()
    assert terminal.run(command, "--run", folder.name).returncode == 0
    code, out, err = ended(process)
    terminal.see_zero(asked, within=0)
    assert code == 12, err
    assert "Traceback" not in err
    assert out.rstrip().endswith("0 instances running")


def forbid_growth(pid: int) -> None:
    """Let no file grow that a process writes: as on a full disk, without rights."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))


def test_a_disk_that_is_full_before_the_launch_buys_nothing(terminal: Victim) -> None:
    terminal.exports()  # the cloud is up
    terminal.faults += 1
    # Forbidden before the program begins: later might be too late.
    full = 'ulimit -S -f 0 && exec "$0" "$@"'
    words = (str(BIN / "cnd"), "start", "--d", "2", "--n", "2")
    done = terminal.run("-c", full, *words, program="/bin/sh")
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert terminal.live() == []


def test_a_disk_that_fills_up_in_mid_run_keeps_no_fleet_alive(terminal: Victim) -> None:
    before = set(terminal.runs())
    process = terminal.spawn("start", "--d", "30", "--n", "2", "--t", "10")
    eventually(lambda: told(newest(terminal, before), "worker.started"))
    forbid_growth(process.pid)
    terminal.faults += 1
    code, out, err = ended(process)
    assert code == 10, err
    assert "cannot write" in err
    assert out.rstrip().endswith("0 instances running")
    assert terminal.live() == []


@pytest.mark.parametrize("seed", range(2))
def test_wherever_the_orchestrator_is_killed_it_comes_to_zero(
    terminal: Victim, cloud: Endpoint, seed: int
) -> None:
    """A few of the sixty moments of the slow test below."""
    kill_and_clean_up(terminal, random.Random(seed), 3, ("scram", "attach"))


@pytest.mark.slow
def test_sixty_moments_to_die_and_nothing_is_left(
    terminal: Victim, cloud: Endpoint
) -> None:
    """After each third the user scrams, attaches, or does nothing at all."""
    ends = ("scram", "attach", "leave")
    kill_and_clean_up(terminal, random.Random(2019), 60, ends)


# Its smallest golden nonce is 190303: more seconds of search than until it is killed.
SEARCH = ("start", "--d", "4", "--block", "block 106", "--n", "2")
LATEST = 4.0  # seconds from its start until a run is killed
SHORT = ("--t", "5", "--boot", "10")  # who is left alone ends after 135 s at most
LAUNCH_DELAY = 3  # seconds that the cloud holds back a launch
LAUNCH_SHOWS = LAUNCH_DELAY + 5.0  # seconds after which what was launched is listed
LISTED_WITHIN = 8  # seconds here; by default 20, as on AWS


def kill_and_clean_up(
    terminal: Victim, chance: random.Random, rounds: int, ends: Sequence[str]
) -> None:
    """Kill runs at random moments, a third of them next to RunInstances or inside."""
    phases: Counter[str] = Counter()
    answers: Counter[int] = Counter()  # exit statuses of attach
    alone: dict[str, float] = {}  # when those were killed that end by themselves
    terminal.environment["CND_LOCAL_LISTED_SECONDS"] = str(LISTED_WITHIN)
    for number in range(rounds):
        end = ends[(number // 3 + number) % len(ends)]
        folder, phase = killed_at_random(terminal, chance, number, end == "leave")
        died = time.monotonic()
        phases[phase] += 1
        print(f"round {number}: killed after {phase}, then {end}")
        if folder and end == "leave":
            alone[folder.name] = died
        elif folder:
            if end == "attach":
                answers[taken_over(terminal, folder)] += 1
            scrammed = terminal.run("scram", "--run", folder.name, timeout=300)
            assert scrammed.returncode == 0, scrammed.stderr
            assert not living(terminal) & {folder.name}
            terminal.seconds_to_zero.append(time.monotonic() - died)
        over(terminal, alone)
    eventually(lambda: over(terminal, alone), within=300, every=1)
    print(f"killed after: {dict(phases.most_common())}")
    print(f"attach ended with: {dict(answers.most_common())}")
    print(f"seconds to zero: {[round(s, 1) for s in terminal.seconds_to_zero]}")


def killed_at_random(
    terminal: Victim, chance: random.Random, number: int, left_alone: bool
) -> tuple[Path | None, str]:
    """Start a run and kill it; return its folder, and what it had told last."""
    before = set(terminal.runs())
    near, moment = number % 3 == 0, chance.uniform(0, LATEST)
    if near:
        delay = LAUNCH_DELAY * (number // 3 % 2)
        moment = chance.uniform(0, delay or 0.15)
    if near and delay:
        lay(terminal.cloud(), "RunInstances", delay=delay)
    process = terminal.spawn(*SEARCH, *(SHORT if left_alone else ("--t", "120")))

    def requested() -> object:
        return told(newest(terminal, before), "instance.requested")

    if near:
        eventually(requested, every=0.002)
    time.sleep(moment)
    terminal.hit(process, signal.SIGKILL)
    folder = newest(terminal, before)
    kinds = [event["kind"] for event in events(folder)] or ["nothing"]
    return folder, "RunInstances, delayed" if near and delay else kinds[-1]


def taken_over(terminal: Victim, folder: Path) -> int:
    """Attach to a run; return the exit status.

    What has searched has the answer; only where nothing had begun may there be none.
    """
    is_over = (folder / "result.json").exists()
    searching = told(folder, "worker.started")
    attached = terminal.run("attach", folder.name, timeout=300)
    bought = folder.name in {each["run"] for each in terminal.instances()}
    assert "Traceback" not in attached.stderr
    if is_over:
        assert attached.returncode == 2
    elif searching:
        assert attached.returncode == 0, attached.stderr
    else:
        assert attached.returncode in ((0, 4) if bought else (2, 4)), attached.stderr
    return attached.returncode


def living(terminal: Victim) -> set[str]:
    """Return the runs that have instances."""
    return {each["run"] for each in terminal.live()}


def over(terminal: Victim, alone: dict[str, float]) -> bool:
    """Note the runs that have ended by themselves; return whether all have."""
    for run in alone.keys() - living(terminal):
        if (since := time.monotonic() - alone[run]) > LAUNCH_SHOWS:
            terminal.seconds_to_zero.append(since)
            del alone[run]
    return not alone
