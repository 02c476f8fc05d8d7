"""stand-in"""

import argparse, hashlib, json, os, signal, sys, time
from typing import NamedTuple

DEFAULT_BLOCK = "COMSM0010cloud"
HASH_DIGITS = 64
DEFAULT_NONCES = 2**32
MAX_NONCES = 2**64
MAX_BLOCK_BYTES = 4096


class Search:
    def __init__(self, block, difficulty, nonces, index=0, of=1, start=None):
        if not 0 <= difficulty <= 64:
            raise ValueError("difficulty")
        if not 1 <= nonces <= MAX_NONCES:
            raise ValueError("nonces")
        if not 0 <= index < of or index >= nonces:
            raise ValueError("index")
        try:
            if len(block.encode()) > 4096:
                raise ValueError("block")
        except UnicodeEncodeError as e:
            raise ValueError("block") from e


def digest(block, nonce):
    return hashlib.sha256(
        hashlib.sha256(("%d%s" % (nonce, block)).encode()).hexdigest().encode()
    ).hexdigest()


def is_golden(d, k):
    return d.startswith("0" * k)


def main():
    job = json.load(open("job.json"))
    r, w = os.pipe()
    if os.fork():
        os.close(w)
        pid = os.read(r, 20)
        print(json.dumps({"event": "detached", "pid": int(pid)}))
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    out = os.open("events.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    n = os.open("/dev/null", os.O_RDWR)
    [os.dup2(n, i) for i in (0, 1, 2)]
    open("worker.pid", "w").write("%d\n" % os.getpid())

    def emit(e, **k):
        os.write(
            out,
            (json.dumps(dict({"event": e, "time": time.time()}, **k)) + "\n").encode(),
        )

    stop = []
    signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
    emit("started", kernel="hashlib", processes=1, pid=os.getpid())
    os.write(w, b"%d" % os.getpid())
    t0 = t = time.time()
    tested = 0
    i = job["index"]
    N = job["of"]
    os.system("logger -t cnd-pow started")
    while i < job["nonces"]:
        tested += 1
        if digest(job["block"], i).startswith("0" * job["difficulty"]):
            emit("found", nonce=i, tested=tested, hash=digest(job["block"], i))
            return
        i += N
        if tested % 1000 == 0:
            if stop:
                return emit("stopped", tested=tested, cursor=i)
            if time.time() > t0 + job["time_limit"]:
                return emit("timeout", tested=tested, cursor=i)
            if time.time() > t + 1:
                t = time.time()
                emit("progress", tested=tested, cursor=i, rate=tested / (t - t0))
    emit("exhausted", tested=tested, cursor=i)


if __name__ == "__main__":
    main()
