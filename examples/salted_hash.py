#!/usr/bin/env python3
"""Brute-force search of a salted hash: which word of a few letters has this SHA-256?

    digest=$(printf 'pepperquiz' | sha256sum | cut -d' ' -f1)
    fab start --worker examples/salted_hash.py --nonces 26**4 --n 4 -- \\
        --salt pepper --length 4 --digest $digest

Word number 0 of four letters is aaaa, number 1 is aaab, and so on.  So the words are a
space of numbers, with `--nonces 26**4`, and every instance searches a part of it.
"""

import argparse
import hashlib
import json
import string
import sys
import time

LETTERS = string.ascii_lowercase
EVERY = 1.0  # seconds between two progress events
CHECK = 4096  # words between two checks of the clock


def word(number, length):
    """Return the word of a number: its digits in base 26, as letters."""
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(LETTERS))
        letters.append(LETTERS[digit])
    return "".join(reversed(letters))


def matches(text, options):
    """Tell whether a word has the wanted digest."""
    salted = (options.salt + text).encode()
    return hashlib.sha256(salted).hexdigest() == options.digest


def say(event, **fields):
    """Print one event, at once."""
    print(json.dumps(dict(fields, event=event)), flush=True)


def search(options):
    """Try the words of one class in ascending order."""
    reported = time.monotonic()
    numbers = range(options.start, options.nonces, options.of)
    for tested, number in enumerate(numbers):
        if tested % CHECK == 0 and time.monotonic() > reported + EVERY:
            reported = time.monotonic()
            say("progress", cursor=number, tested=tested)
        text = word(number, options.length)
        if matches(text, options):
            say("found", nonce=number, answer=text, tested=tested + 1)
            return
    say("exhausted")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--salt", default="", help="the text before the word")
    add("--length", type=int, default=4, help="letters of the word")
    add("--digest", required=True, help="its SHA-256, 64 hex digits")
    add("--index", type=int, default=0)
    add("--of", type=int, default=1)
    add("--start", type=int, default=0)
    add("--nonces", type=int, default=26**4)
    add("--check", type=int)
    return parser.parse_args()


def main():
    options = parse()
    if options.check is not None:
        text = word(options.check, options.length)
        print(json.dumps({"valid": matches(text, options), "answer": text}))
    elif options.nonces > len(LETTERS) ** options.length:
        sys.exit(f"there are only 26**{options.length} words: --nonces is too large")
    else:
        search(options)


if __name__ == "__main__":
    main()
