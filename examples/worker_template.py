#!/usr/bin/env python3
"""A worker of your own: change `is_answer`; docs/workers.md has the protocol.

fab start --worker worker_template.py --nonces 1000000 --n 4 -- --divisor 999983
"""

import argparse
import json
import time

EVERY = 1.0  # seconds between two progress events


def is_answer(number, options):
    """Tell whether `number` is an answer."""
    return number > 0 and number % options.divisor == 0


def say(event, **fields):
    """Print one event, at once."""
    print(json.dumps(dict(fields, event=event)), flush=True)


def search(options):
    """Try start, start + of, start + 2 of, ... below nonces."""
    reported = time.monotonic()
    numbers = range(options.start, options.nonces, options.of)
    for tested, number in enumerate(numbers):
        if tested % 1000 == 0 and time.monotonic() > reported + EVERY:
            reported = time.monotonic()
            say("progress", cursor=number, tested=tested)
        if is_answer(number, options):
            say("found", nonce=number, answer=str(number), tested=tested + 1)
            return
    say("exhausted")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--divisor", type=int, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--nonces", type=int, default=2**32)
    parser.add_argument("--check", type=int)
    options = parser.parse_args()
    if options.check is not None:
        valid = is_answer(options.check, options)
        print(json.dumps({"valid": valid, "answer": str(options.check)}))
    else:
        search(options)


if __name__ == "__main__":
    main()
