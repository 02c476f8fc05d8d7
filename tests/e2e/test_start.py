"""The main job, as a user does it: the installed program in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.faults import befall
from tests.support.processes import ended
from tests.support.runs import HOPELESS, searching, told
from tests.support.terminal import BIN, Terminal
from tests.support.vectors import SMALLEST, VECTORS
from tests.support.waiting import SOON, eventually

ROOT = Path(__file__).parents[2]


def hashed(nonce: int, block: str = "COMSM0010cloud") -> str:
    first = hashlib.sha256(f"{nonce}{block}".encode()).hexdigest()
    return hashlib.sha256(first.encode()).hexdigest()


def test_the_main_job_finds_a_golden_nonce_and_leaves_nothing(
    terminal: Terminal,
) -> None:
    terminal.forks = False
    terminal.cloud()  # up before: it takes seconds
    # When the process is there already, and no Python has begun in it yet.
    noted = 'date +%s.%N > began && exec "$0" "$@"'
    words = ("start", "--t", "200", "--d", "2", "--n", "8", "--json")
    done = terminal.run("-c", noted, str(BIN / "cnd"), *words, program="/bin/sh")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    assert result["outcome"] == "found"
    assert result["hash"] == hashed(result["nonce"])
    assert result["hash"].startswith("00")
    assert result["index"] == result["nonce"] % 8
    assert result["instances"] == result["terminated"] == 8
    assert result["left_running"] == 0
    assert terminal.live() == []

    folder = terminal.state / "cnd" / "runs" / result["run"]
    logs = sorted(path.name for path in (folder / "logs").iterdir())
    assert logs == [f"Instance{i}.log" for i in range(8)]
    finder = (folder / "logs" / f"Instance{result['index']}.log").read_text()
    assert "sshd" in finder
    assert str(result["nonce"]) in finder
    assert json.loads((folder / "result.json").read_text()) == result

    told = [json.loads(x) for x in (folder / "events.jsonl").read_text().splitlines()]
    at = {event["kind"]: event["time"] for event in reversed(told)}
    total = result["seconds"]["total"]
    assert total == pytest.approx(at["run.ended"] - at["run.started"], abs=0.1)
    # A run begins when its process does, and not when Python has loaded its program.
    assert at["run.started"] < float((terminal.folder / "began").read_text()) + 0.05


def test_the_stock_fab_in_a_checkout_does_the_same(terminal: Terminal) -> None:
    terminal.folder = ROOT
    done = terminal.run("start", "--t", "200", "--d", "2", "--n", "2", program="fab")
    assert done.returncode == 0, done.stderr
    assert "golden nonce   " in done.stdout
    assert done.stdout.rstrip().endswith("0 instances running")
    assert done.stderr.startswith("cloud: local (http://127.0.0.1:")


@pytest.mark.parametrize(
    "words",
    [
        ("-t", "60", "-d", "1", "-n", "1"),
        ("--time-limit", "60", "--difficulty", "1", "--instances", "1"),
        ("--time-limit=60", "--d=1", "-n=1"),
    ],
)
def test_every_spelling_of_the_options_means_the_same(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    result = terminal.json("start", *words)
    assert (result["nonce"], result["instances"]) == (7, 1)


@pytest.mark.parametrize("difficulty", ["1", "2", "3", "4"])
def test_one_instance_finds_the_smallest_golden_nonce(
    terminal: Terminal, difficulty: str
) -> None:
    result = terminal.json("start", "--d", difficulty, "--n", "1")
    assert result["nonce"] == SMALLEST[difficulty]


def test_each_instance_finds_the_smallest_of_its_class(terminal: Terminal) -> None:
    by_class = VECTORS["blocks"]["COMSM0010cloud"][
        "smallest_golden_of_difficulty_3_by_class"
    ]
    result = terminal.json("start", "--d", "3", "--n", "5")
    assert result["nonce"] == by_class["5"][result["index"]]


def test_an_exhausted_space_is_tested_to_the_last_nonce_and_none_twice(
    terminal: Terminal,
) -> None:
    words = ("--d", "9", "--nonces", "100000", "--n", "4")
    result = terminal.json("start", *words, status=11)
    assert (result["outcome"], result["tested"]) == ("exhausted", 100000)
    assert result["nonce"] is None


def limited(terminal: Terminal) -> float:
    """Have a time limit of 2 s end a search; return when the quicker worker told it."""
    words = ("--t", "2", "--d", "12", "--n", "2")
    result = terminal.json("start", *words, status=10)
    assert result["outcome"] == "timeout"
    assert 1.9 < result["seconds"]["search"] < SOON
    folder = terminal.state / "cnd" / "runs" / result["run"]
    took = [event["seconds"] for event in told(folder, "worker.timeout")]
    assert len(took) == 2
    # Who began later has less time.
    return min(float(seconds) for seconds in took if seconds > 1.9)


@pytest.mark.paced
def test_the_time_limit_ends_the_search_in_time(terminal: Terminal) -> None:
    # A busy machine may keep both workers from their cores; not each time.
    assert any(1.9 < limited(terminal) < 3.0 for _ in range(5))


def test_with_what_local_up_prints_a_run_is_on_the_local_cloud(
    terminal: Terminal,
) -> None:
    """Its endpoint is set for other programs; nothing outside this machine is asked."""
    terminal.environment |= terminal.exports()
    result = terminal.json("start", "--t", "60", "--d", "2", "--n", "1")
    assert (result["cloud"], result["outcome"]) == ("local", "found")


def test_another_block_is_another_search(terminal: Terminal) -> None:
    block = "grüße \N{SNOWMAN} 'quoted' \"twice\" $HOME"
    result = terminal.json("start", "--d", "2", "--block", block)
    assert result["block"] == block
    assert result["hash"] == hashed(result["nonce"], block)


@pytest.mark.paced
def test_a_message_from_any_program_ends_the_run(terminal: Terminal) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "2", "--json")
    aws = BIN / "aws"
    environment = {**os.environ, **terminal.exports()}
    if aws.exists():
        queue = f"cnd-{folder.name}"
        subprocess.run(
            f"{aws} sqs send-message --message-body enough --queue-url "
            f"$({aws} sqs get-queue-url --queue-name {queue} --output text)",
            shell=True,
            check=True,
            env=environment,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    else:
        client = terminal.client("sqs")
        url = client.get_queue_url(QueueName=f"cnd-{folder.name}")["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody="enough")
    code, out, _ = ended(process)
    result = json.loads(out)
    assert (code, result["outcome"]) == (12, "stopped")
    assert "enough" in result["reason"]
    assert result["terminated"] == 2


@pytest.mark.paced
def test_fab_stop_ends_one_run_and_not_the_other(terminal: Terminal) -> None:
    first, folder = searching(terminal, *HOPELESS, "--n", "1", "--json")
    second, other = searching(terminal, *HOPELESS, "--n", "1", "--json")
    ambiguous = terminal.run("stop")
    assert ambiguous.returncode == 2
    assert folder.name in ambiguous.stderr

    assert terminal.run("stop", "--run", folder.name).returncode == 0
    code, out, _ = ended(first)
    assert (code, json.loads(out)["run"]) == (12, folder.name)
    assert second.poll() is None
    assert {i["run"] for i in terminal.live()} == {other.name}

    assert terminal.run("stop").returncode == 0
    assert ended(second)[0] == 12
    assert terminal.live() == []


@pytest.mark.paced
def test_scram_from_a_second_terminal_ends_both_and_spares_foreign_instances(
    terminal: Terminal,
) -> None:
    process, _folder = searching(terminal, *HOPELESS, "--n", "3", "--json")
    ec2 = terminal.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    foreign = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    foreign_id = foreign["Instances"][0]["InstanceId"]

    done = terminal.run("scram")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 3
    code, out, err = ended(process)
    result = json.loads(out)
    assert (code, result["outcome"]) == (12, "stopped"), err
    assert result["left_running"] == 0

    def state() -> str:
        found = ec2.describe_instances(InstanceIds=[foreign_id])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    eventually(lambda: state() != "pending")  # it boots in its own time
    assert state() == "running"
    ec2.terminate_instances(InstanceIds=[foreign_id])
    again = terminal.run("scram")
    assert (again.returncode, again.stdout) == (0, "nothing was running\n")


@pytest.mark.paced
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_in_order(
    terminal: Terminal, number: signal.Signals
) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "2", "--json")
    process.send_signal(number)
    code, out, err = ended(process)
    result = json.loads(out)
    assert (code, result["outcome"]) == (130, "stopped"), err
    assert result["terminated"] == 2
    assert len(list((folder / "logs").iterdir())) == 2
    assert terminal.live() == []


@pytest.mark.paced
def test_under_nohup_a_run_outlives_its_terminal(terminal: Terminal) -> None:
    process, folder = searching(
        terminal,
        str(BIN / "cnd"),
        *HOPELESS,
        "--n",
        "1",
        "--json",
        program="/usr/bin/nohup",
    )
    process.send_signal(signal.SIGHUP)
    assert terminal.run("stop", "--run", folder.name).returncode == 0
    code, out, err = ended(process)
    assert (code, json.loads(out)["outcome"]) == (12, "stopped"), err
    assert "run.stop_requested" in (folder / "events.jsonl").read_text()


@pytest.mark.paced
def test_ctrl_c_twice_terminates_at_once(terminal: Terminal) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "2")
    # It does not answer: its log is waited for, if the second comes late.
    befall(terminal.cloud(), told(folder, "worker.started")[0]["host"], "freeze")
    process.send_signal(signal.SIGINT)
    events = folder / "events.jsonl"
    eventually(lambda: "run.stop_requested" in events.read_text(), every=0.002)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert "Traceback" not in err
    assert "2 instances terminated, 0 running" in err
    assert terminal.live() == []


def test_a_kept_fleet_stays_until_it_is_scrammed(terminal: Terminal) -> None:
    result = terminal.json("start", "--d", "2", "--n", "2", "--keep")
    assert (result["terminated"], result["left_running"]) == (0, 2)
    assert {i["run"] for i in terminal.live()} == {result["run"]}
    eventually(lambda: not terminal.instances(states=["pending"]))  # one may still boot
    assert {i["state"] for i in terminal.live()} == {"running"}
    done = terminal.run("scram", "--run", result["run"])
    assert done.stdout.rstrip().endswith("0 instances running")
    assert terminal.live() == []


@pytest.mark.paced
def test_status_tells_what_each_instance_is_doing(terminal: Terminal) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "2")
    eventually(lambda: all("nonces/s" in i["doing"] for i in terminal.status()))
    text = terminal.call("status").stdout
    assert text.count(folder.name) == 3
    assert "2 instances running" in text
    terminal.run("stop")
    ended(process)


def test_the_first_ready_searches_while_the_last_one_boots(
    terminal: Terminal,
) -> None:
    befall(terminal.cloud(), 3, "boots-late", seconds=150)
    result = terminal.json("start", "--d", "2", "--n", "4")
    lines = (terminal.runs()[-1] / "events.jsonl").read_text()
    kinds = [json.loads(line)["kind"] for line in lines.splitlines()]
    assert kinds.count("instance.ready") < 4
    assert (result["outcome"], result["terminated"]) == ("found", 4)
    assert result["seconds"]["total"] < SOON
