"""Which cloud, and the clients that talk to it.

One rule: `connect` is the only place that makes boto3 clients and the only place
that knows AWS from the embedded cloud.  Nothing below it asks.
"""

from __future__ import annotations

import bisect
import math
import os
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cnd import local
from cnd.aws import LOGIN, translated
from cnd.errors import CloudError, UsageError

if TYPE_CHECKING:
    import boto3
    from types_boto3_ec2 import EC2Client
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient
    from types_boto3_ssm import SSMClient

CHOICES = ("aws", "local")
DOWN = "cloud: embedded, which is down"  # instead of a cloud's title
CHECKIP = "https://checkip.amazonaws.com"

MOST_LIFE = 7 * 24 * 60  # minutes; no temporary credentials hold longer
CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 30.0  # seconds; a long poll of the stop queue takes up to 20
ATTEMPTS = 4  # of a call, where nothing was answered or too much was asked
CONNECTIONS = 32  # per client: uploads and polls run side by side


@dataclass(frozen=True)
class Cloud:
    """An account in a region of a cloud, and one client per service."""

    name: str  # "aws" or "local"
    region: str
    account: str  # twelve digits
    owner: str  # who pays: the last part of the caller's ARN
    endpoint: str | None  # URL; None means AWS's own
    checkip: str  # URL that answers with the caller's address
    clients: Clients = field(repr=False)
    arn: str = ""  # of the caller
    hosts_at_once: int = 32  # how many to connect to, and to set up, at the same time
    polls_per_second: float = 500.0  # of S3, by all instances of a run together
    rate_cap: float | None = None  # nonces/s that each host is held to
    # Seconds until a host that hears nothing goes on alone, and for which a refused
    # termination is repeated; None: as `orphans` and `ec2` say.
    orphan_patience: float | None = None
    refused_patience: float | None = None

    @property
    def title(self) -> str:
        """Say which cloud this is: the first line of every command that uses one."""
        if self.name == "local":
            held = (
                self.rate_cap and f", each host held to {self.rate_cap:,.0f} nonces/s"
            )
            return (
                f"cloud: embedded ({self.endpoint}, region {self.region}{held or ''})"
            )
        at = f", endpoint {self.endpoint}" if self.endpoint else ""
        return f"cloud: AWS account {self.account}, region {self.region}{at}"

    @property
    def ec2(self) -> EC2Client:
        return self.clients.get("ec2")  # type: ignore[no-any-return]

    @property
    def ec2_once(self) -> EC2Client:
        """EC2, each call tried once: for launches, whose refusals say what is next."""
        return self.clients.get("ec2", attempts=1)  # type: ignore[no-any-return]

    @property
    def s3(self) -> S3Client:
        return self.clients.get("s3")  # type: ignore[no-any-return]

    @property
    def sqs(self) -> SQSClient:
        return self.clients.get("sqs")  # type: ignore[no-any-return]

    @property
    def ssm(self) -> SSMClient:
        return self.clients.get("ssm")  # type: ignore[no-any-return]

    def within(self, region: str) -> Cloud:
        """Return the same account in another region."""
        return replace(self, region=region, clients=self.clients.within(region))


class Clients:
    """boto3 clients, each made once when first asked for, from any thread."""

    def __init__(
        self, session: boto3.Session, endpoint: str | None, region: str | None = None
    ) -> None:
        from botocore.config import Config

        self._session = session
        self._endpoint = endpoint
        self._region = region  # None: the session's own
        self._lock = threading.Lock()  # making a client is not thread-safe
        self._made: dict[tuple[str, int], Any] = {}
        self._config = Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=CONNECTIONS,
            signature_version="v4",
            # Not "auto": outside us-east-1 it signs URLs for a host that sends one on
            # to another, where the signature does not hold (boto3 #3015).
            s3={"addressing_style": "path" if endpoint else "virtual"},
        )

    def within(self, region: str) -> Clients:
        """Return clients of the same account in another region."""
        return Clients(self._session, self._endpoint, region)

    def get(
        self, service: str, region: str | None = None, *, attempts: int = ATTEMPTS
    ) -> Any:
        """Return the client of a service; `region` for those that live in few."""
        from botocore.config import Config

        key = service, attempts
        if key in self._made:  # no lock: the guard of a run must not wait for one
            return self._made[key]
        config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
        with self._lock:
            if key not in self._made:
                make: Any = self._session.client  # overloads for literals only
                try:
                    with translated(f"reach {service}"):
                        self._made[key] = make(
                            service,
                            region_name=region or self._region,
                            endpoint_url=self._endpoint,
                            config=self._config.merge(config),
                        )
                except ValueError as error:  # botocore's word for a bad URL
                    hint = "check AWS_ENDPOINT_URL"
                    raise UsageError(str(error), hint=hint) from error
            return self._made[key]

    def know(self, region: str) -> bool:
        """Tell whether the region is in the data that came with botocore."""
        partition = self._session.get_partition_for_region(region)
        return region in self._session.get_available_regions("ec2", partition)

    def life_left(self) -> float | None:
        """Return how many seconds the credentials still hold, rounded to minutes.

        Infinity if they do not expire, None where they do not say.
        """
        from botocore.credentials import RefreshableCredentials

        credentials = self._session.get_credentials()
        if not isinstance(credentials, RefreshableCredentials):
            return None if credentials and credentials.token else math.inf
        # botocore says only whether they are over in so many seconds.
        over = bisect.bisect_left(
            range(MOST_LIFE),
            True,
            key=lambda minutes: credentials.refresh_needed(refresh_in=60 * minutes),
        )
        return 60.0 * max(0, over - 1)


def connect(
    choice: str = "", region: str = "", *, launch: bool = False
) -> Cloud | None:
    """Return the cloud to use: AWS if boto3 finds credentials, else the embedded one.

    Args:
        choice: "aws" or "local" to insist; empty to find out.
        region: overrides the configured region.
        launch: bring the embedded cloud up if it is down.

    Returns:
        None if the embedded cloud is meant, down, and not wanted up.

    Raises:
        UsageError: an unknown `choice`, or AWS without credentials or region.
        CloudError: the cloud does not answer, or does not know the caller.
    """
    if choice not in ("", *CHOICES):
        message = f"--cloud must be {' or '.join(CHOICES)}, not {choice!r}"
        raise UsageError(message)
    if choice != "local" and (session := _aws_session(region)):
        return _identified("aws", session, _aws_endpoint(), CHECKIP)
    if choice == "aws":
        raise UsageError("--cloud aws: boto3 finds no AWS credentials", hint=LOGIN)
    endpoint = local.up() if launch else local.status()
    return _embedded(endpoint, region) if endpoint else None


def _aws_session(region: str) -> boto3.Session | None:
    """Return a session with credentials and a region, or None without credentials."""
    import boto3  # here: it costs a third of a second, and some commands go without
    from botocore.exceptions import ProfileNotFound

    with translated("read the AWS configuration"):
        try:
            session = boto3.Session(region_name=region or None)
        except ProfileNotFound as error:
            hint = "see ~/.aws/config"
            raise UsageError(f"AWS_PROFILE: {error}", hint=hint) from error
        if session.get_credentials() is None:
            return None
    if not session.region_name:
        hint = "say --region, or set AWS_DEFAULT_REGION"
        raise UsageError("no AWS region is configured", hint=hint)
    _check_region(session)
    return session


def _check_region(session: boto3.Session) -> None:
    """Refuse what cannot be the name of a region; new regions are none the worse."""
    from botocore.exceptions import UnknownRegionError

    try:
        session.get_partition_for_region(session.region_name or "")
    except UnknownRegionError as error:
        message = f"no such AWS region: {session.region_name!r}"
        raise UsageError(message, hint="for example --region eu-west-2") from error


def configured_region() -> tuple[str, str]:
    """Return the region that boto3 is configured for, and by what; "" if it is not."""
    name = "AWS_DEFAULT_REGION"  # boto3 does not read AWS_REGION
    if region := os.environ.get(name):
        return region, name
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
    except BotoCoreError:  # no such profile: whoever connects is told
        return "", ""
    if not session.region_name:
        return "", ""
    return session.region_name, f"AWS profile {session.profile_name}"


def _aws_endpoint() -> str | None:
    """Return AWS_ENDPOINT_URL: boto3 obeys it anyway, but the user should be told."""
    return os.environ.get("AWS_ENDPOINT_URL") or None


def _embedded(endpoint: local.Endpoint, region: str) -> Cloud:
    import boto3

    session = boto3.Session(
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=region or endpoint.region,
    )
    _check_region(session)
    cloud = _identified("local", session, endpoint.url, f"{endpoint.url}/checkip")
    patience = local.patience(os.environ)
    # Its hosts share this machine with us.
    cores = os.cpu_count() or 1
    return replace(
        cloud,
        hosts_at_once=2 * cores,
        polls_per_second=30.0 * cores,
        rate_cap=endpoint.rate,
        orphan_patience=patience.orphan,
        refused_patience=patience.refused,
    )


def _identified(
    name: str, session: boto3.Session, endpoint: str | None, checkip: str
) -> Cloud:
    """Ask the cloud who is calling: the first proof that it answers."""
    clients = Clients(session, endpoint)
    with translated("reach the cloud"):
        caller = clients.get("sts").get_caller_identity()
    return Cloud(
        name=name,
        region=session.region_name or "",
        account=caller["Account"],
        owner=caller["Arn"].rsplit("/", 1)[-1].rsplit(":", 1)[-1],
        endpoint=endpoint,
        checkip=checkip,
        clients=clients,
        arn=caller["Arn"],
    )


def embedded() -> dict[str, Any]:
    """Bring the embedded cloud up, and return its own account of itself.

    Raises:
        CloudError: it did not start, or does not answer.
    """
    return local.summary(local.up())


def required(cloud: Cloud | None) -> Cloud:
    """Return `cloud`, or raise if the embedded cloud is meant and down."""
    if cloud is None:
        hint = "`fab local up` starts it; `fab start` does so by itself"
        raise CloudError("the embedded cloud is down", hint=hint)
    return cloud
