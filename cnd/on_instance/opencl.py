"""The driver of a GPU, called by ctypes: one device of OpenCL, and launches on it.

It is beside `pow.py` on hosts that may have a GPU, and runs on any Python from 3.6 on,
with the standard library only.  The driver compiles the kernel; no toolkit is needed.
The names are OpenCL's own: https://registry.khronos.org/OpenCL/, version 1.2.

One rule: a device may fail at any moment, or never answer.  Every status is checked,
and every wait for a launch has a deadline.  No other call waits for a launch: those
that could are given nothing to wait for.  (A call that hangs, a compiler's for example,
cannot be interrupted: the whole process has a deadline that `pow.py` keeps.)

A process may use a device only if it has called OpenCL itself: nothing survives a fork.
"""

import ctypes
import os
import time
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Sequence

LIBRARIES = (
    "libOpenCL.so.1",  # of the system, which knows every driver
    "libnvidia-opencl.so.1",  # NVIDIA's driver alone
    "/usr/local/cuda/lib64/libOpenCL.so.1",
)
CPU_WANTED = "CND_OPENCL_CPU"  # "1": a processor counts as a device, for tests

GPU, CPU = 1 << 2, 1 << 1  # CL_DEVICE_TYPE_...
TYPE, COMPUTE_UNITS, NATIVE_LANES, NAME = 0x1000, 0x1002, 0x1038, 0x102B  # of a device
BUILD_LOG, STATUS = 0x1183, 0x11D3  # of a program; of an event
READ_WRITE, READ_ONLY, HOST_MEMORY, COPY = 1 << 0, 1 << 2, 1 << 4, 1 << 5  # of a buffer
MAP_READ = 1 << 0
COMPLETE = 0  # an event's status; below are errors
NO_PLATFORM = -1001

LAUNCH_SECONDS = 0.02  # a launch: so that a stop is obeyed soon
IN_FLIGHT = 2  # launches at a time, so that the device never waits for the host
FIRST_LAUNCH = 512  # nonces
MAX_GROWTH = 8  # a launch is at most this many times as long as the one before
MAX_LAUNCH = 1 << 31  # nonces; the kernel counts them in 32 bits
SPIN_SECONDS = 0.0005  # that a launch is polled without a pause
POLL_SECONDS = 0.0005  # between two polls after that
PATIENCE = 10.0  # seconds for a launch; then the device has failed
COMPILES = (
    60.0  # seconds for a kernel's first launch: some drivers compile it only then
)
ROOM = 4096  # nonces that one launch can list
# Work items of a group.  Of a processor fewer: its threads take groups by shares, and
# of a few groups the first thread would take most.
GPU_GROUP, CPU_GROUP = 64, 16
# Work items by compute unit: many more than run at once, as those of a GPU do not
# end together.  Those of a processor run one after the other.
GPU_ITEMS, CPU_ITEMS = 1 << 14, 1 << 7

MOST_TEXT = 200  # characters of a driver's text that are kept
# The language of the kernel; without it, a driver takes a version of its own choice.
LANGUAGE = b"-cl-std=CL1.2"


class Unusable(OSError):
    """There is no device, or it cannot be used; the message says why."""


class Failed(OSError):
    """A call to the driver has failed, or a launch did; the message says which."""


def load_driver(names: Sequence[str] = LIBRARIES) -> Any:
    """Return the library of OpenCL; `Unusable` if there is none."""
    for name in names:
        try:
            library = ctypes.CDLL(name)
            _declare(library)
            return library
        except (OSError, AttributeError):
            continue
    raise Unusable("no driver: there is no library of OpenCL")


def _declare(library: Any) -> None:
    """Declare what returns a pointer; pointers are always passed as such."""
    for name in (
        *("clCreateContext", "clCreateCommandQueue", "clCreateProgramWithSource"),
        *("clCreateKernel", "clCreateBuffer", "clEnqueueMapBuffer"),
    ):
        getattr(library, name).restype = ctypes.c_void_p


def _require(status: int, what: str) -> None:
    if status:
        raise Failed(f"{what} fails with status {status}")


def _info(function: Any, *of: Any) -> bytes:
    """Return one property of an object."""
    text = ctypes.create_string_buffer(4096)
    size = ctypes.c_size_t(len(text))
    used = ctypes.c_size_t()
    _require(function(*of, size, text, ctypes.byref(used)), function.__name__)
    return text.raw[: used.value]


class Found(NamedTuple):
    """A device as the driver lists it."""

    id: Any
    name: str
    is_gpu: bool
    compute_units: int
    lanes: int  # 32-bit words of its vectors: 1 on a GPU

    @classmethod
    def of(cls, library: Any, device: Any) -> "Found":
        def number(what: int) -> int:
            data = _info(library.clGetDeviceInfo, device, ctypes.c_uint(what))
            return int.from_bytes(data, "little")

        name = _info(library.clGetDeviceInfo, device, ctypes.c_uint(NAME))
        text = name.split(b"\0")[0].decode("utf-8", "replace").strip()
        is_gpu = bool(number(TYPE) & GPU)
        lanes = 1 if is_gpu else number(NATIVE_LANES)
        fitting = max(each for each in (1, 4, 8, 16) if each <= max(1, lanes))
        return cls(device, text, is_gpu, number(COMPUTE_UNITS), fitting)


def devices(library: Any) -> List[Found]:
    """Return the GPUs; `Unusable` if there is none.

    A processor counts with CND_OPENCL_CPU=1 only: it searches faster without OpenCL.
    """
    wanted = GPU | (CPU if os.environ.get(CPU_WANTED) == "1" else 0)
    count = ctypes.c_uint()
    status = library.clGetPlatformIDs(0, None, ctypes.byref(count))
    if status not in (0, NO_PLATFORM):
        raise Unusable(f"no driver answers: status {status}")
    platforms = (ctypes.c_void_p * count.value)()
    if count.value:
        _require(library.clGetPlatformIDs(count, platforms, None), "clGetPlatformIDs")
    found = []  # type: List[Found]
    for platform in platforms:
        found += [
            Found.of(library, each) for each in _listed(library, platform, wanted)
        ]
    if not found:
        raise Unusable(f"no device: {count.value} drivers, and no GPU")
    return found


def _listed(library: Any, platform: Any, wanted: int) -> List[Any]:
    """Return the devices of one driver; it says "none" by an error."""
    count, kind = ctypes.c_uint(), ctypes.c_ulong(wanted)
    where = ctypes.c_void_p(platform)
    if library.clGetDeviceIDs(where, kind, 0, None, ctypes.byref(count)):
        return []
    ids = (ctypes.c_void_p * count.value)()
    _require(library.clGetDeviceIDs(where, kind, count, ids, None), "clGetDeviceIDs")
    return [ctypes.c_void_p(each) for each in ids]


class Slot:
    """Memory for one launch's result, on the device and here.

    Here it is memory of the driver, and is never released: the driver may write to it
    whenever a launch ends, even after another call has failed.  NVIDIA's driver copies
    to other memory only once it is this call's turn, and blocks the caller until then.
    """

    def __init__(self, buffer: Any, address: int) -> None:
        self.buffer = buffer
        self.result = (ctypes.c_uint * (1 + ROOM)).from_address(address)

    @property
    def size(self) -> int:
        return ctypes.sizeof(self.result)


class Launch:
    """A launch in flight: `count` nonces from `first` on."""

    def __init__(self, slot: Slot, first: int, count: int) -> None:
        self.slot, self.first, self.count = slot, first, count
        self.patience = PATIENCE  # seconds
        self.began = time.perf_counter()
        self.event = ctypes.c_void_p()  # of the result's arrival


class Device:
    """One device, with the kernel compiled for it; used by one scanner at a time."""

    def __init__(
        self, library: Any, found: Found, source: bytes, patience: float = PATIENCE
    ) -> None:
        self.found = found
        self.cl = library
        self.launch_nonces = FIRST_LAUNCH  # that take about LAUNCH_SECONDS
        self._patience = patience
        error = ctypes.c_int()
        with_error = ctypes.byref(error)
        id = ctypes.byref(found.id)
        self._context = ctypes.c_void_p(
            library.clCreateContext(None, 1, id, None, None, with_error)
        )
        _require(error.value, "clCreateContext")
        self.queue = ctypes.c_void_p(
            library.clCreateCommandQueue(
                self._context, found.id, ctypes.c_ulong(0), with_error
            )
        )
        _require(error.value, "clCreateCommandQueue")
        self._source = source
        self._kernels: Dict[int, Any] = {}
        self._launched: List[Any] = []  # kernels that were launched before
        self._slots = [self._slot() for _ in range(IN_FLIGHT)]
        self.flying: Deque[Launch] = deque()
        self._last_end = 0.0  # of a launch

    @property
    def group(self) -> int:
        """The work items of a group."""
        return GPU_GROUP if self.found.is_gpu else CPU_GROUP

    @property
    def items(self) -> int:
        """The most work items of a launch, a power of two."""
        each = GPU_ITEMS if self.found.is_gpu else CPU_ITEMS
        return 1 << max(1, self.found.compute_units * each - 1).bit_length()

    def kernel(self, varying: int) -> Any:
        """Return the kernel for messages of which so many words have digits.

        Raises `Unusable` if the compiler refuses it.
        """
        if varying not in self._kernels:
            self._kernels[varying] = self._built(varying)
        return self._kernels[varying]

    def _built(self, varying: int) -> Any:
        cl, error = self.cl, ctypes.c_int()
        text, size = ctypes.c_char_p(self._source), ctypes.c_size_t(len(self._source))
        program = ctypes.c_void_p(
            cl.clCreateProgramWithSource(
                *(self._context, 1, ctypes.byref(text), ctypes.byref(size)),
                ctypes.byref(error),
            )
        )
        _require(error.value, "clCreateProgramWithSource")
        options = b"%s -DLANES=%d -DVARYING=%d" % (LANGUAGE, self.found.lanes, varying)
        id = ctypes.byref(self.found.id)
        if cl.clBuildProgram(program, 1, id, options, None, None):
            raise Unusable("its compiler refuses the kernel: " + self._log(program))
        kernel = ctypes.c_void_p(
            cl.clCreateKernel(program, b"scan", ctypes.byref(error))
        )
        _require(error.value, "clCreateKernel")
        return kernel

    def _log(self, program: Any) -> str:
        """Return the line of the compiler's output that matters most."""
        info = self.cl.clGetProgramBuildInfo
        try:
            data = _info(info, program, self.found.id, ctypes.c_uint(BUILD_LOG))
        except Failed:
            return "it gives no reason"
        lines = data.split(b"\0")[0].decode("utf-8", "replace").split("\n")
        errors = [line for line in lines if "error" in line] or lines
        return errors[0].strip()[:MOST_TEXT]

    def buffer(self, size: int, flags: int, data: Any = None) -> Any:
        """Return a new buffer, with a copy of `data`; it waits for no launch."""
        error = ctypes.c_int()
        made = self.cl.clCreateBuffer(
            *(self._context, ctypes.c_ulong(flags), ctypes.c_size_t(size), data),
            ctypes.byref(error),
        )
        _require(error.value, "clCreateBuffer")
        return ctypes.c_void_p(made)

    def _slot(self) -> Slot:
        size = 4 * (1 + ROOM)
        here = self.buffer(size, READ_WRITE | HOST_MEMORY)
        error, none = ctypes.c_int(), ctypes.c_size_t(0)
        address = self.cl.clEnqueueMapBuffer(
            *(self.queue, here, 1, ctypes.c_ulong(MAP_READ), none),
            *(ctypes.c_size_t(size), 0, None, None, ctypes.byref(error)),
        )
        _require(error.value, "clEnqueueMapBuffer")
        return Slot(self.buffer(size, READ_WRITE), address)

    def free(self, *buffers: Any) -> None:
        for buffer in buffers:
            self.cl.clReleaseMemObject(buffer)

    # Launches.

    def free_slot(self) -> Slot:
        taken = [launch.slot for launch in self.flying]
        return next(slot for slot in self._slots if slot not in taken)

    def enqueue(
        self, launch: Launch, kernel: Any, arguments: Sequence[Any], items: int
    ) -> None:
        """Start a launch, and the transfer of its result; it waits for nothing."""
        launch.patience = self._patience
        if kernel not in self._launched:
            self._launched.append(kernel)
            launch.patience = max(self._patience, COMPILES)
        for number, value in enumerate(arguments):
            size = ctypes.c_size_t(ctypes.sizeof(value))
            status = self.cl.clSetKernelArg(kernel, number, size, ctypes.byref(value))
            _require(status, "clSetKernelArg")
        self._start(launch, kernel, items)
        _require(self.cl.clFlush(self.queue), "clFlush")

    def _start(self, launch: Launch, kernel: Any, items: int) -> None:
        size, group = ctypes.c_size_t(items), ctypes.c_size_t(self.group)
        slot, none, zero = launch.slot, ctypes.c_size_t(0), ctypes.c_uint(0)
        self.flying.append(launch)  # its memory is in use from here on
        word = ctypes.c_size_t(ctypes.sizeof(zero))
        _require(
            self.cl.clEnqueueFillBuffer(
                *(self.queue, slot.buffer, ctypes.byref(zero), word, none, word),
                *(0, None, None),
            ),
            "clEnqueueFillBuffer",
        )
        _require(
            self.cl.clEnqueueNDRangeKernel(
                *(self.queue, kernel, 1, None, ctypes.byref(size), ctypes.byref(group)),
                *(0, None, None),
            ),
            "clEnqueueNDRangeKernel",
        )
        _require(
            self.cl.clEnqueueReadBuffer(
                *(self.queue, slot.buffer, 0, none, ctypes.c_size_t(slot.size)),
                *(slot.result, 0, None, ctypes.byref(launch.event)),
            ),
            "clEnqueueReadBuffer",
        )

    def landed(self) -> Launch:
        """Return the oldest launch, once it has ended."""
        launch = self.flying[0]
        self._wait_for(launch)
        self._measure(launch)
        return self.flying.popleft()

    def drain(self) -> None:
        """Wait for all launches, and forget them."""
        while self.flying:
            self.landed()

    def _wait_for(self, launch: Launch) -> None:
        """Wait until a launch has ended; `Failed` if it fails, or takes too long.

        It polls, since many drivers wait by using a whole core.
        """
        cl, status = self.cl, ctypes.c_int(1)
        size, began = ctypes.c_size_t(ctypes.sizeof(status)), time.perf_counter()
        what = ctypes.c_uint(STATUS)
        while True:
            result = cl.clGetEventInfo(
                launch.event, what, size, ctypes.byref(status), None
            )
            _require(result, "clGetEventInfo")
            if status.value <= COMPLETE:
                break
            waited = time.perf_counter() - began
            if waited > launch.patience:
                raise Failed(f"a launch has not ended after {launch.patience:g} s")
            if waited > SPIN_SECONDS:
                time.sleep(POLL_SECONDS)
        cl.clReleaseEvent(launch.event)
        _require(status.value, "a launch")

    def _measure(self, launch: Launch) -> None:
        """Set the length of the next launches by what this one took."""
        now = time.perf_counter()
        took = max(now - max(launch.began, self._last_end), 1e-6)
        self._last_end = now
        if launch.count < self.launch_nonces:
            return  # cut short: too small to show how fast the device is
        target = int(launch.count * LAUNCH_SECONDS / took)
        most = MAX_GROWTH * self.launch_nonces
        self.launch_nonces = max(FIRST_LAUNCH, min(target, most, MAX_LAUNCH))
