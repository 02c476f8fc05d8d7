"""The GPU scanner: searches with `golden.cl` on one device of OpenCL.

It is beside `pow.py` on hosts that may have a GPU, and runs on any Python from 3.6 on,
with the standard library only.

One rule: a device is believed as little as a kernel on the processor.  `pow.py` tests
it with known answers before it searches, and each nonce that it reports is hashed again
here.
"""

import ctypes
import hashlib
import os
import struct
import sys
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

try:
    from cnd.on_instance import opencl
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import opencl  # type: ignore[import-not-found, no-redef]

SOURCE = "golden.cl"
MAX_DIGITS = 20  # of 2**64 - 1
# Words of a message that its nonce's digits lie in; for up to 12 digits.
DIGIT_WORDS, FEW_WORDS = 5, 3
POWERS = 32  # addends of a stretch
WORD = 0xFFFFFFFF


# --- SHA-256, as far as it is the same for many nonces (FIPS 180-4)


def _primes(count: int) -> List[int]:
    found = []  # type: List[int]
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def _cube_root_bits(number: int) -> int:
    """Return the first 32 bits of the fraction of a cube root."""
    root, scaled = 0, number << 96
    for bit in range(40, -1, -1):
        if (root | 1 << bit) ** 3 <= scaled:
            root |= 1 << bit
    return root & WORD


K = [_cube_root_bits(prime) for prime in _primes(64)]  # 4.2.2


def _rotated(x: int, n: int) -> int:
    return (x >> n | x << (32 - n)) & WORD


def _sigma0(x: int) -> int:
    return _rotated(x, 7) ^ _rotated(x, 18) ^ x >> 3


def _sigma1(x: int) -> int:
    return _rotated(x, 17) ^ _rotated(x, 19) ^ x >> 10


def _scheduled(words: Sequence[int]) -> List[int]:
    """Return K + W of a block whose words are all known (6.2.2, step 1)."""
    w = list(words)
    for t in range(16, 64):
        w.append((_sigma1(w[t - 2]) + w[t - 7] + _sigma0(w[t - 15]) + w[t - 16]) & WORD)
    return [(k + each) & WORD for k, each in zip(K, w)]


def _constant_terms(words: Sequence[int], varying: int) -> List[int]:
    """Return W[16] to W[31], as far as words from `varying` on go into them."""

    def term(i: int, function: Callable[[int], int]) -> int:
        return function(words[i]) if varying <= i < 16 else 0

    def same(word: int) -> int:
        return word

    return [
        term(t - 2, _sigma1) + term(t - 7, same) + term(t - 15, _sigma0)
        + term(t - 16, same) & WORD
        for t in range(16, 32)
    ]  # fmt: skip


class Stretch(NamedTuple):
    """What the kernel needs to know of nonces whose texts are equally long."""

    same: bytes  # golden.cl: struct stretch
    part_kw: bytes
    varying: int  # words of the message with digits: FEW_WORDS or DIGIT_WORDS


def prepared(block: bytes, digits: int, step: int) -> Stretch:
    """Return the stretch of all nonces of so many digits, for any first one."""
    message = b"0" * digits + block
    padded = message + b"\x80" + bytes(-(len(message) + 9) % 64)
    padded += struct.pack(">Q", 8 * len(message))
    words = struct.unpack(f">{len(padded) // 4}I", padded)
    varying = FEW_WORDS if digits <= 4 * FEW_WORDS else DIGIT_WORDS
    values = list(struct.unpack(">5I", (b"\xff" * digits).ljust(20, b"\0")))
    for power in range(POWERS):
        values += _addend(step << power, digits)
    values += [(k + word) & WORD for k, word in zip(K, words[:16])]
    values += _constant_terms(words[:16], varying)
    values.append(len(words) // 16 - 1)
    parts = [
        kw for at in range(16, len(words), 16) for kw in _scheduled(words[at : at + 16])
    ]
    part_kw = struct.pack(f"<{max(1, len(parts))}I", *(parts or [0]))
    return Stretch(struct.pack(f"<{len(values)}I", *values), part_kw, varying)


def _addend(value: int, digits: int) -> Sequence[int]:
    """Return what to add to a text to add `value`: see cnd/kernel/decimal.h.

    Modulo the numbers of so many digits: a nonce past them is not of the stretch.
    """
    text = b"%0*d" % (digits, value % 10**digits)
    added = bytes(byte - ord("0") + 0xC6 for byte in text)
    return struct.unpack(">5I", added.ljust(20, b"\0"))


# --- the scanner


class OpenclScanner:
    """Scans on one device; as exact as `pow.HashlibScanner`.

    It knows the results of whole launches, and gives them out in order: a scan that
    goes on where the last one ended takes up what is known already.
    """

    witnesses = ()  # type: Sequence[int]

    def __init__(
        self,
        device: opencl.Device,
        block: str,
        difficulty: int,
        stop: Optional[Sequence[int]] = None,
    ) -> None:
        self._device = device
        self._block, self._difficulty = block.encode(), difficulty
        self._stop = (0,) if stop is None else stop
        self._mask = WORD << max(0, 32 - 4 * difficulty) & WORD
        # A launch is to list far fewer nonces than there is room for.
        self._most = min(opencl.MAX_LAUNCH, opencl.ROOM // 4 * 16 ** min(difficulty, 8))
        self._stretch = None  # type: Optional[Tuple[int, int, int]]
        self._buffers = ()  # type: Tuple[Any, ...]
        self._step = 0
        self._at = self._known = self._launched = 0  # nonces: see `scan`
        self._hits = []  # type: List[int]  # from `_at` to `_known`, the last one first
        self.tested = 0  # nonces of the last stretch that were tested
        device.drain()  # of another scanner's launches

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None, as `HashlibScanner`.

        Raises `opencl.Failed` if the device does.
        """
        if (start, step) != (self._at, self._step):
            self._restart(start, step)
        end = start + step * count
        while True:
            if self._hits and self._hits[-1] < end:
                nonce = self._hits.pop()
                self._at = nonce + step
                self.tested = (nonce - start) // step + 1
                return nonce
            if self._known >= end or self._stop[0]:
                # What is known is given out, even if a stop has been requested.
                self._at = min(self._known, end)
                self.tested = (self._at - start) // step
                return None
            while self._launched < end and len(self._device.flying) < opencl.IN_FLIGHT:
                self._launch(end)
            self._await()

    def _restart(self, start: int, step: int) -> None:
        self._device.drain()  # of launches whose results are not wanted
        self._step, self._hits = step, []
        self._at = self._known = self._launched = start

    # Launching.

    def _launch(self, end: int) -> None:
        """Enqueue the next launch, of nonces of equal length below `end`."""
        first, step, device = self._launched, self._step, self._device
        digits = len(str(first))
        above = min(end, 10**digits)
        count = min(-((first - above) // step), self._most, device.launch_nonces)
        kernel = device.kernel(self._prepare(digits, step))
        lanes = device.found.lanes
        needed = max(device.group, -(-count // lanes))
        items = min(device.items, 1 << (needed - 1).bit_length())
        power = (items * lanes).bit_length() - 1
        launch = opencl.Launch(device.free_slot(), first, count)
        arguments = [
            *self._buffers,
            self._text_of(first),
            *map(ctypes.c_uint, (count, power, self._mask, opencl.ROOM)),
            launch.slot.buffer,
        ]
        device.enqueue(launch, kernel, arguments, items)
        self._launched = first + count * step

    def _text_of(self, nonce: int) -> Any:
        """Return the first words of a nonce's message, as the kernel takes them."""
        text = b"%d" % nonce + self._block + b"\x80"  # the padding's first bit (5.1.1)
        words = struct.unpack(">5I", text[:20].ljust(20, b"\0"))
        return (ctypes.c_uint * 8)(*words)

    def _prepare(self, digits: int, step: int) -> int:
        """Write what such nonces have in common; return how many words vary."""
        if self._stretch is None or self._stretch[:2] != (digits, step):
            stretch, device = prepared(self._block, digits, step), self._device
            device.free(*self._buffers)  # the driver keeps them until launches end
            self._buffers = tuple(
                device.buffer(len(data), opencl.READ_ONLY | opencl.COPY, data)
                for data in (stretch.same, stretch.part_kw)
            )
            self._stretch = (digits, step, stretch.varying)
        return self._stretch[2]

    # Results.

    def _await(self) -> None:
        """Wait for the oldest launch, and take in its result."""
        launch = self._device.landed()
        listed = launch.slot.result[0]
        if listed > opencl.ROOM:  # more than expected by far: a part of them at a time
            self._most = max(1, launch.count // 2)
            self._device.drain()
            self._launched = self._known
            return
        step = self._step
        found = [launch.first + step * i for i in launch.slot.result[1 : 1 + listed]]
        golden = [nonce for nonce in found if self._is_golden(nonce)]
        # Up to 8 digits, the first word decides.
        if self._difficulty <= 8 and len(golden) < len(found):
            raise opencl.Failed("it reports nonces that are not golden")
        self._hits = sorted(golden, reverse=True) + self._hits
        self._known = launch.first + step * launch.count

    def _is_golden(self, nonce: int) -> bool:
        first = hashlib.sha256(b"%d" % nonce + self._block).hexdigest()
        digits = hashlib.sha256(first.encode()).hexdigest()
        return digits.startswith("0" * self._difficulty)


def open_device(
    number: int,
    source: bytes,
    listed: Callable[[int], None] = lambda count: None,
) -> Tuple[opencl.Device, int]:
    """Return one of the devices, and how many there are.

    `listed` is called with that number before the device is tried.
    Raises `opencl.Unusable`, with the reason, if it cannot be used.
    """
    try:
        library = opencl.load_driver()
        found = opencl.devices(library)
        listed(len(found))
        if number >= len(found):
            raise opencl.Unusable(f"no device {number}: there are {len(found)}")
        device = opencl.Device(library, found[number], source)
        device.kernel(FEW_WORDS)
    except opencl.Failed as error:
        raise opencl.Unusable(str(error)) from None
    return device, len(found)
