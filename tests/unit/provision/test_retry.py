"""What is tried again, and for how long."""

from __future__ import annotations

import itertools

import pytest

from cnd.cloud.failures import refusal
from cnd.cloud.replies import UNREADABLE
from cnd.errors import CloudError
from cnd.provision import capacity
from cnd.provision.retry import again


class Call:
    """A call that fails so many times."""

    def __init__(self, failures: int, code: str = UNREADABLE) -> None:
        self._left, self._code = failures, code
        self.made = 0
        self.slept: list[float] = []

    def __call__(self) -> int:
        self.made += 1
        if self.made <= self._left:
            raise refusal("try", self._code, "?")
        return 7


def test_what_passes_is_tried_again_and_what_stays_for_some_seconds_only() -> None:
    call = Call(2)
    assert again(call, sleep=call.slept.append) == 7
    assert call.slept == list(capacity.UNSURE_PAUSES[:2])
    call = Call(99)
    with pytest.raises(CloudError):
        again(call, sleep=call.slept.append)
    assert call.slept == list(capacity.UNSURE_PAUSES)


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket"])
def test_what_is_refused_is_not_asked_for_again(code: str) -> None:
    call = Call(1, code)
    with pytest.raises(CloudError):
        again(call, sleep=call.slept.append)
    assert call.made == 1


@pytest.mark.parametrize(
    ("code", "seconds"), [("OperationAborted", 60.0), ("NoSuchBucket", 10.5)]
)
def test_a_bucket_that_is_not_settled_is_asked_for_again(
    code: str, seconds: float
) -> None:
    call = Call(99, code)
    with pytest.raises(CloudError, match=code):
        again(call, pause=capacity.bucket_pause, sleep=call.slept.append)
    assert sum(call.slept) == seconds
    assert capacity.bucket_pause(["AccessDenied"]) is None


def test_nothing_is_asked_of_a_cloud_that_has_ceased_to_be() -> None:
    call, looks = Call(99), itertools.count()
    with pytest.raises(CloudError):
        again(call, hopeless=lambda: next(looks) == 1, sleep=call.slept.append)
    assert call.made == 2
