#!/usr/bin/env python3
"""A lesson: searches of growing difficulty on one fleet, with a table of their cost.

    python3 examples/lesson.py --n 8 --d 2-7

The first search launches the fleet and keeps it (--keep), the others search on it
(--on), the last one ends it.  Should one of them fail, the fleet is terminated here;
should this program die, the timers of the instances end them.
"""

import argparse
import json
import subprocess
import sys
import time

COLUMNS = "{:>2} {:>13} {:>13} {:>12} {:>9} {:>9} {:>9} {:>12}"
TITLES = (
    *("D", "expected", "tested", "nonce"),
    *("ready in", "search", "whole", "nonces/s"),
)
FOUND, TIME_IS_OVER = 0, 10  # exit statuses of `cnd start`
BILLED_AT_LEAST = 60.0  # seconds an instance is paid for, however short its life


def cnd(*words):
    """Run a command; return its exit status and its JSON object."""
    command = [sys.executable, "-m", "cnd", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    return done.returncode, json.loads(done.stdout.decode() or "{}")


def search(difficulty, options, run, last):
    """Search on a new fleet, or on that of an earlier run; return the result."""
    fleet = ["--on", run, "--extend"] if run else ["--n", str(options.n)]
    words = ["start", "--d", str(difficulty), "--t", str(options.t), *fleet]
    status, result = cnd(*words, *([] if last else ["--keep"]))
    if status not in (FOUND, TIME_IS_OVER):
        raise SystemExit(f"lesson: difficulty {difficulty} ended with status {status}")
    return result


def row(result):
    """Return the line of a search in the table."""
    seconds = result["seconds"]
    return COLUMNS.format(
        result["difficulty"],
        f"{16 ** result['difficulty']:,}",
        f"{result['tested'] or 0:,}",
        "-" if result["nonce"] is None else result["nonce"],
        *(f"{seconds[phase] or 0:.2f} s" for phase in ("boot", "search", "total")),
        f"{result['hash_rate'] or 0:,.0f}",
    )


def bill(results, life, price):
    """Yield what one fleet costs, and what a fleet for each search would have cost.

    Args:
        life: seconds from the launch of the fleet until its end.
        price: USD for an instance and hour.
    """
    n, boot = results[0]["instances"], results[0]["seconds"]["boot"] or 0.0
    whole = [result["seconds"]["total"] for result in results]
    again = [whole[0], *(boot + seconds for seconds in whole[1:])]
    usd = n * price / 3600
    one = usd * max(BILLED_AT_LEAST, life)
    each = usd * sum(max(BILLED_AT_LEAST, seconds) for seconds in again)
    yield f"one fleet of {n} for {life:.0f} s: ${one:.4f}"
    yield f"a fleet for each of {len(whole)} searches: ${each:.4f} (60 s at least each)"


def lesson(options):
    """Do all searches, and print the table as it grows."""
    results, run, began = [], "", time.monotonic()
    print(COLUMNS.format(*TITLES))
    try:
        for difficulty in options.d:
            result = search(difficulty, options, run, difficulty == options.d[-1])
            run = result["run"]
            results.append(result)
            print(row(result), flush=True)
    finally:
        if run and results[-1]["left_running"]:
            cnd("scram", "--run", run)
    for line in bill(results, time.monotonic() - began, options.price):
        print(line)


def difficulties(text):
    """Return the difficulties that "2-7" or "2" means; ValueError for other texts."""
    low, _, high = text.partition("-")
    found = range(int(low), int(high or low) + 1)
    if not found:
        raise ValueError("none")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=8, help="instances")
    parser.add_argument("--d", type=difficulties, default="2-7", help="2-7")
    parser.add_argument("--t", type=float, default=200, help="seconds for each search")
    help_of_price = "USD for an instance and hour (t3.micro in us-east-1)"
    parser.add_argument("--price", type=float, default=0.0104, help=help_of_price)
    lesson(parser.parse_args())


if __name__ == "__main__":
    main()
