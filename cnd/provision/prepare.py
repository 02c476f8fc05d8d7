"""What is prepared before the first instance is launched.

One rule: whatever can be refused is requested here, while it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cnd import s3logs, sqs
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.ec2 import REFUSALS
from cnd.errors import CloudError
from cnd.model.catalog import has_gpu
from cnd.model.launch_spec import LaunchSpec
from cnd.model.plan import Plan
from cnd.provision import access
from cnd.provision import user_data as boot_script
from cnd.provision.capacity import bucket_pause
from cnd.provision.retry import again
from cnd.system.background import NotDone, Pool, answer
from cnd.system.typed_json import made
from cnd.transport import keys, s3_protocol
from cnd.transport.gateway import Gateway
from cnd.transport.shell import LOG_COMMAND
from cnd.transport.ssh_connection import Login

BUCKET_PATIENCE = 5.0  # seconds
PATIENCE = 300.0  # seconds; calls and their repetition have shorter limits

T = TypeVar("T")


@dataclass(frozen=True)
class Provision:
    """Everything that a launch and a run need from the account."""

    specs: tuple[LaunchSpec, ...]  # one for each type, in the order of attempts
    login: Login
    queue: str  # URL
    bucket: str
    # In the background: without a bucket the run loses copies, and goes on.
    bucket_made: Future[None]
    owner: str = ""  # the account whose bucket it must be; empty for the user's own

    @property
    def bucket_refused(self) -> bool:
        """Whether the bucket is known to be unusable, after a wait of a few seconds.

        The bucket is created while the instances boot.
        """
        try:
            self.bucket_made.result(BUCKET_PATIENCE)
        except NotDone:
            return False
        except CloudError:
            return True
        return False

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs to take the run over in another process."""
        return {
            "specs": [asdict(spec) for spec in self.specs],
            "login": {**asdict(self.login), "key": str(self.login.key)},
            "queue": self.queue,
            "bucket": self.bucket,
            "owner": self.owner,
        }

    @classmethod
    def from_json(cls, record: object) -> Provision:
        """Return what `to_json` wrote; ValueError if it is none."""
        fields = record if isinstance(record, dict) else {}
        specs, login = fields.get("specs"), fields.get("login")
        queue, bucket = fields.get("queue"), fields.get("bucket")
        if not isinstance(specs, list) or not isinstance(login, dict):
            raise ValueError("has no provision")
        if not isinstance(queue, str) or not isinstance(bucket, str):
            raise ValueError("has no queue and bucket")
        return cls(
            tuple(made(LaunchSpec, spec) for spec in specs),
            made(Login, {**login, "key": Path(str(login.get("key")))}),
            queue,
            bucket,
            _done(),
            str(fields.get("owner", "")),
        )


def prepare(
    cloud: Cloud, plan: Plan, *, run: str, key: keys.UserKey, bucket: str = ""
) -> Provision:
    """Create or find everything that `plan` needs on `cloud`, in parallel.

    Args:
        bucket: the user's own, which must exist; empty for CND's own.

    Raises:
        CloudError: the cloud refused something, or has no such instance type.
        UsageError: the user data would be longer than EC2 takes.
    """
    if plan.gateway:
        Gateway(plan.gateway, key.path).check()
    host_key = keys.generate()
    name = bucket or s3logs.bucket_name(cloud.account, cloud.region)
    owner = "" if bucket else cloud.account
    user_data = {  # it may be too long
        gpu: _user_data(cloud, plan, run, name, host_key, gpu=gpu)
        for gpu in set(map(has_gpu, plan.types))
    }
    pool = Pool(4, "prepare")
    try:
        images = {
            name: pool.submit(access.image, cloud, name, plan.image, plan.user)
            for name in plan.types
        }
        key_name = pool.submit(access.key_pair, cloud.ec2, key)
        group = pool.submit(security_group, cloud, plan)
        if bucket:
            s3logs.check_bucket(cloud.s3, bucket)
            bucket_made = _done()
        else:
            make = partial(
                s3logs.ensure_bucket, cloud.s3, name, cloud.region, cloud.account
            )
            bucket_made = pool.submit(settled, make, cloud)
        pool.submit(lambda: cloud.ec2_once)  # making a client takes a moment
        specs = tuple(
            LaunchSpec(
                image=_got(image).id,
                instance_type=instance_type,
                key_name=_got(key_name),
                group=_got(group).group,
                user_data=user_data[has_gpu(instance_type)],
                lifetime=plan.lifetime,
                public=plan.address == "public",
                volumes=_got(image).volumes,
            )
            for instance_type, image in images.items()
        )
        if plan.without_ssh:  # the instances get their orders from the bucket
            _got(bucket_made)
            place = (cloud.s3, name, run, owner)
            settled(partial(s3_protocol.send, *place, types=plan.types), cloud)
    finally:
        pool.close()
    user = _got(images[plan.instance_type]).user
    login = Login(user, key.path, host_key.public, _got(group).rule)
    queue = sqs.create(cloud.sqs, run)
    return Provision(specs, login, queue, name, bucket_made, owner)


def prepare_again(
    cloud: Cloud, plan: Plan, *, run: str, former: Provision
) -> Provision:
    """Find what a run needs on a fleet that `former` was prepared for.

    Raises:
        CloudError: the cloud refused something.
    """
    pool = Pool(2, "prepare")
    try:
        made = _done()
        if former.owner:
            place = (former.bucket, cloud.region, former.owner)
            make = partial(s3logs.ensure_bucket, cloud.s3, *place)
            made = pool.submit(settled, make, cloud)
        group = pool.submit(security_group, cloud, plan)  # the address may be another
        queue = sqs.create(cloud.sqs, run)
        login = replace(former.login, rule=_got(group).rule)
    finally:
        pool.close()
    return Provision((), login, queue, former.bucket, made, former.owner)


def _got(found: Future[T]) -> T:
    """Return what a thread has found or made; `CloudError` if that takes too long."""
    try:
        return answer(found, PATIENCE)
    except TimeoutError as error:
        raise CloudError(f"could not prepare the run: {error}") from error


def settled(work: Callable[[], object], cloud: Cloud) -> None:
    """Do `work` with CND's bucket, which may be new, or its last removal under way."""
    again(work, hopeless=cloud.gone, pause=bucket_pause)


def expected_spec(
    cloud: Cloud, plan: Plan, key: keys.UserKey, instance_type: str
) -> LaunchSpec:
    """Return what a launch will ask for, as far as it exists before the run.

    The key pair and the group may have to be created first, and no right depends on
    the user data.

    Raises:
        CloudError: a look-up was refused, or there is no such type or image.
    """
    image = access.image(cloud, instance_type, plan.image, plan.user)
    subnet = plan.subnets[0]
    group = access.find_group(cloud.ec2, subnet, closed=plan.without_ssh)
    return LaunchSpec(
        image=image.id,
        instance_type=instance_type,
        key_name=_existing_key_pair(cloud, key),
        group=group.id if group else "",
        user_data="",
        lifetime=plan.lifetime,
        subnet=subnet,
        public=plan.address == "public",
        volumes=image.volumes,
    )


def _existing_key_pair(cloud: Cloud, key: keys.UserKey) -> str:
    """Return the name of the key pair of `key`; "" if none is known to exist."""
    try:
        return access.key_name(key) if access.has_key_pair(cloud.ec2, key) else ""
    except CloudError as error:
        if code(error) not in REFUSALS:  # a run does not need this call
            raise
        return ""


@dataclass(frozen=True)
class Access:
    """The security group of a run, and the range of addresses that it lets in."""

    group: str  # id
    ssh_from: str  # IPv4 CIDR; "": none

    @property
    def rule(self) -> str:
        """The rule as a part of a sentence."""
        return f"{self.group} allows SSH from {self.ssh_from} only"


def security_group(cloud: Cloud, plan: Plan) -> Access:
    """Create or open the security group: for SSH from one range only, or closed.

    The range is the user's, or the address that this machine has now.
    """
    if plan.without_ssh:
        return Access(access.closed_group(cloud.ec2, plan.subnets[0]), "")
    ssh_from = access.allowed_range(cloud, plan.ssh_from)
    subnet = plan.subnets[0]
    return Access(access.ssh_group(cloud.ec2, ssh_from, cloud.owner, subnet), ssh_from)


def _user_data(
    cloud: Cloud,
    plan: Plan,
    run: str,
    bucket: str,
    host_key: keys.KeyPair,
    *,
    gpu: bool,
) -> str:
    if not plan.without_ssh:
        return boot_script.user_data(lifetime=plan.lifetime, host_key=host_key)
    boot = s3_protocol.boot(
        cloud.s3,
        bucket,
        run,
        plan,
        polls_per_second=cloud.polls_per_second,
        gpu=gpu,
        patience=cloud.orphan_patience,
    )
    data = boot_script.without_ssh(lifetime=plan.lifetime, boot=boot, log=LOG_COMMAND)
    token = s3_protocol.token_of(boot)
    boot_script.check_size(data, token=len(token), block=len(plan.block))
    return data


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
