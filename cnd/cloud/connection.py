"""Which cloud is used, and its clients.

One rule: this is the only file that creates boto3 clients and the only one that
distinguishes AWS from the local cloud: everything else goes by the fields of `Cloud`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cnd import local
from cnd.cloud import credentials, models, replies
from cnd.cloud.failures import LISTED_WITHIN, LOGIN, translated
from cnd.errors import CloudError, CndError, UsageError
from cnd.model.s3_requests import POLLS_PER_SECOND

if TYPE_CHECKING:
    import boto3
    import botocore.session
    from types_boto3_ec2 import EC2Client
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient
    from types_boto3_ssm import SSMClient
from cnd.cloud.endpoints import AWS_URL, check_port, is_aws, is_loopback

CHOICES = ("aws", "local")
DOWN = "cloud: local, which is down"  # in place of a cloud's title
CHECKIP = "https://checkip.amazonaws.com"

SERVICES = ("ec2", "s3", "sqs", "ssm", "sts", "autoscaling")  # that runs need
# Files of the user's configuration: environment variable -> default path.
FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}
# What botocore raises of a description of a service that it cannot read.
UNDESCRIBED = (JSONDecodeError, UnicodeDecodeError)
MODELS = "~/.aws/models"  # where botocore looks for descriptions of services
ENDPOINTS = "AWS_ENDPOINT_URL"  # how the variables that name endpoints begin
CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 30.0  # seconds; a long poll of the stop queue takes up to 20
# Seconds for CreateFleet: a repeated one need not name the instances of the first.
FLEET_TIMEOUT = 120.0
ATTEMPTS = 4  # of a call, where nothing was answered or too much was asked
# The same of what botocore itself calls to get credentials, while all others wait.
CREDENTIALS_TIMEOUT, CREDENTIALS_ATTEMPTS = 10.0, 2
CONNECTIONS = 32  # per client: uploads and polls run side by side


@dataclass(frozen=True)
class Cloud:
    """An account in a region of a cloud, and one client per service."""

    name: str  # "aws" or "local"
    region: str
    account: str  # twelve digits
    owner: str  # the caller: the last part of its ARN
    endpoint: str | None  # URL of EC2; None means AWS's own
    checkip: str  # URL that returns the caller's address; "": it is on this machine
    clients: Clients = field(repr=False)
    arn: str = ""  # of the caller
    # Service -> URL, of those that are not AWS's own.
    endpoints: Mapping[str, str] = field(default_factory=dict)
    # Whether the cloud, and every instance of it with it, has ended.
    gone: Callable[[], bool] = field(default=lambda: False, repr=False)
    hosts_at_once: int = 32  # that are connected to and set up at the same time
    # Of S3, by all instances of a run together.
    polls_per_second: float = POLLS_PER_SECOND
    rate_cap: float | None = None  # nonces/s, the limit of each host
    conditions: str = ""  # of a local cloud that is not as usual: its weather ...
    # Seconds without a message after which a host is an orphan, and seconds for which
    # a refused termination is repeated; None: the defaults of `orphans` and `ec2`.
    orphan_patience: float | None = None
    refused_patience: float | None = None
    listed_within: float = LISTED_WITHIN  # seconds until an instance is listed, at most

    @property
    def title(self) -> str:
        """Which cloud this is: the first line of every command that uses one."""
        if self.name == "local":
            cap = self.rate_cap and f", each host held to {self.rate_cap:,.0f} nonces/s"
            more = f"{self.conditions and f', {self.conditions}'}{cap or ''}"
            return f"cloud: local ({self.endpoint}, region {self.region}{more})"
        return f"cloud: AWS account {self.account}, region {self.region}{self._at}"

    @property
    def _at(self) -> str:
        urls = set(self.endpoints.values())
        if len(urls) == 1 and self.endpoints.keys() == set(SERVICES):
            return f", endpoint {urls.pop()}"
        places = [f"{name} at {url}" for name, url in self.endpoints.items()]
        return f", {', '.join(places)}" if places else ""

    @property
    def ec2(self) -> EC2Client:
        return self.clients.get("ec2")  # type: ignore[no-any-return]

    @property
    def ec2_once(self) -> EC2Client:
        """EC2, each call tried once: for launches, whose refusals decide the next."""
        return self.clients.get("ec2", attempts=1)  # type: ignore[no-any-return]

    @property
    def ec2_for_fleets(self) -> EC2Client:
        """The same for CreateFleet, which answers once it has launched what it can."""
        found = self.clients.get("ec2", attempts=1, read_timeout=FLEET_TIMEOUT)
        return found  # type: ignore[no-any-return]

    @property
    def s3(self) -> S3Client:
        return self.clients.get("s3")  # type: ignore[no-any-return]

    @property
    def sqs(self) -> SQSClient:
        return self.clients.get("sqs")  # type: ignore[no-any-return]

    @property
    def ssm(self) -> SSMClient:
        return self.clients.get("ssm")  # type: ignore[no-any-return]

    def in_region(self, region: str) -> Cloud:
        """Return the same account in another region."""
        return replace(self, region=region, clients=self.clients.in_region(region))


class Clients:
    """boto3 clients, each created once when first requested, from any thread."""

    def __init__(
        self, session: boto3.Session, endpoint: str | None, region: str | None = None
    ) -> None:
        """Create no client yet.

        Args:
            endpoint: URL of every service; None: what the user has configured, as
                boto3 reads it, else AWS's own.
            region: None: the session's own.
        """
        self._session = session
        self._endpoint = endpoint
        self._region = region
        self._lock = threading.Lock()  # creating a client is not thread-safe
        self._made: dict[tuple[str, int, float], Any] = {}

    def in_region(self, region: str) -> Clients:
        """Return clients of the same account in another region."""
        return Clients(self._session, self._endpoint, region)

    def get(
        self,
        service: str,
        region: str | None = None,
        *,
        attempts: int = ATTEMPTS,
        read_timeout: float = READ_TIMEOUT,
    ) -> Any:
        """Return the client of a service; `region` if it exists in few regions only."""
        key = service, attempts, read_timeout
        if key in self._made:  # no lock: the termination guard must not wait for one
            return self._made[key]
        with self._lock:
            if key not in self._made:
                # It calls nothing: what fails is in the configuration.
                with _configuration_read(f"use {service}"):
                    self._made[key] = self._make(
                        service, region, attempts, read_timeout
                    )
            return self._made[key]

    def _make(
        self, service: str, region: str | None, attempts: int, read_timeout: float
    ) -> Any:
        from botocore.config import Config

        create: Any = self._session.client  # overloads for literals only

        def client_for(url: str) -> Any:
            """Return a client that suits an endpoint at `url`."""
            config = Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=read_timeout,
                max_pool_connections=CONNECTIONS,
                signature_version="v4",
                retries={"mode": "standard", "total_max_attempts": attempts},
                # Not "auto": outside us-east-1 it signs URLs for a host that redirects
                # to another one, where the signature is invalid (boto3 #3015).
                s3={"addressing_style": "virtual" if is_aws(url) else "path"},
                proxies={} if is_loopback(url) else None,
            )
            return create(
                service,
                region_name=region or self._region,
                endpoint_url=self._endpoint,
                config=config,
            )

        url = self._endpoint or AWS_URL
        try:
            client = client_for(url)
            check_port(client.meta.endpoint_url)
        except UNDESCRIBED:
            raise
        except ValueError as error:  # botocore's error for a bad URL
            hint = "check AWS_ENDPOINT_URL, and endpoint_url in ~/.aws/config"
            raise UsageError(str(error), hint=hint) from error
        if not self._endpoint and not is_aws(client.meta.endpoint_url):
            # The user's own endpoint, which only a client knows.
            client = client_for(client.meta.endpoint_url)
        models.skip_errors(client)
        replies.check(client)
        return client

    def custom_endpoints(self) -> dict[str, str]:
        """Return the URLs of the services whose endpoint is not AWS's own."""
        urls = {name: self.get(name).meta.endpoint_url for name in SERVICES}
        return {name: url for name, url in urls.items() if not is_aws(url)}

    def knows(self, region: str) -> bool:
        """Return whether the region is in the data that came with botocore."""
        partition = self._session.get_partition_for_region(region)
        return region in self._session.get_available_regions("ec2", partition)

    def life_left(self) -> float | None:
        """Return for how many seconds the credentials are valid, rounded to minutes.

        Infinity if they do not expire, None if that is not known.
        """
        return credentials.life_left(self._session.get_credentials())


def connect(
    choice: str = "", region: str = "", *, launch: bool = False
) -> Cloud | None:
    """Return the cloud to use: AWS if boto3 finds credentials, else the local one.

    The user's own local cloud is meant as well where AWS_ENDPOINT_URL, as `fab local
    up` prints it for other programs, leads there, and `choice` is empty.

    Args:
        choice: "aws" or "local"; empty: AWS if there are credentials.
        region: overrides the configured region.
        launch: start the local cloud if it is down.

    Returns:
        None if the local cloud is meant, is down, and is not to be started.

    Raises:
        UsageError: an unknown `choice`, or AWS without credentials or region.
        CloudError: the cloud does not answer, or does not know the caller.
    """
    if choice not in ("", *CHOICES):
        message = f"--cloud must be {' or '.join(CHOICES)}, not {choice!r}"
        raise UsageError(message)
    if choice != "local" and (found := _aws_session(region)):
        session, endpoints = found
        if endpoints and not choice and (own := _own_local_cloud(session)):
            return _local_cloud(own, session.region_name or "")
        return _identified("aws", session, CHECKIP, endpoints=endpoints)
    if choice == "aws":
        raise UsageError("--cloud aws: boto3 finds no AWS credentials", hint=LOGIN)
    endpoint = local.up() if launch else local.status()
    return _local_cloud(endpoint, region) if endpoint else None


def _aws_session(region: str) -> tuple[boto3.Session, bool] | None:
    """Return a session with credentials and a region, or None without credentials.

    The second value is whether the user has configured endpoints.
    """
    import boto3  # here: it takes a third of a second, and some commands do not need it
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    with _configuration_read():
        core = botocore.session.get_session()
        core.set_default_client_config(
            Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=CREDENTIALS_TIMEOUT,
                retries={"total_max_attempts": CREDENTIALS_ATTEMPTS},
            )
        )
        try:
            _prepare(core)
            session = boto3.Session(botocore_session=core, region_name=region or None)
            credentials.guard(core)
            if session.get_credentials() is None:
                return None
        except ProfileNotFound as error:
            hint = "see ~/.aws/config, or use `--cloud local`, which reads none of it"
            raise UsageError(f"AWS_PROFILE: {error}", hint=hint) from error
        configured = {*core.get_scoped_config()} & {"endpoint_url", "services"}
        in_environment = [x for x in os.environ if x.startswith(ENDPOINTS)]
        if not session.region_name:
            hint = "say --region, or set AWS_DEFAULT_REGION"
            raise UsageError("no AWS region is configured", hint=hint)
        _check_region(session)
    return session, bool(configured or in_environment)


def _prepare(core: botocore.session.Session) -> None:
    """Give a session what all clients of ours have in common."""
    core.register_component("response_parser_factory", replies.Parsers())
    models.read_fast(core.get_component("data_loader"))


@contextmanager
def _configuration_read(
    action: str = "read the AWS configuration",
) -> Iterator[None]:
    """Name the files and the way out where the user's configuration is unreadable."""
    try:
        yield
    except CndError:
        raise
    except credentials.CredentialFailure as error:
        raise CloudError(str(error), hint=error.hint) from error
    except Exception as error:  # of any kind: botocore translates only a few
        names = [os.environ.get(name) or usual for name, usual in FILES.items()]
        if isinstance(error, UNDESCRIBED):
            names = [*filter(None, [os.environ.get("AWS_DATA_PATH")]), MODELS]
        mend = f"mend {', '.join(names)} or what AWS_... variables say"
        hint = f"{mend}, or use `--cloud local`, which reads none of it"
        message = f"could not {action}: {replies.excerpt(error, 200)}"
        raise CloudError(message, hint=hint) from error


def _check_region(session: boto3.Session) -> None:
    """Refuse what cannot be the name of a region; unknown new regions are accepted."""
    from botocore.exceptions import UnknownRegionError

    try:
        session.get_partition_for_region(session.region_name or "")
    except UnknownRegionError as error:
        message = f"no such AWS region: {session.region_name!r}"
        raise UsageError(message, hint="for example --region eu-west-2") from error


def configured_region() -> tuple[str, str]:
    """Return the region configured for boto3, and where it is set; else "" twice."""
    name = "AWS_DEFAULT_REGION"  # boto3 does not read AWS_REGION
    if region := os.environ.get(name):
        return region, name
    import boto3

    try:
        with _configuration_read():
            session = boto3.Session()
            found = session.region_name, session.profile_name
    except CndError:  # `connect` reports it
        return "", ""
    return (found[0], f"AWS profile {found[1]}") if found[0] else ("", "")


def _own_local_cloud(session: boto3.Session) -> local.Endpoint | None:
    """Return this user's running local cloud if a session has all services there.

    One that serves only some of them is an endpoint like any other.
    """
    if (running := local.status()) is None:
        return None
    clients, port = Clients(session, None), urlsplit(running.url).port
    for name in SERVICES:
        url = clients.get(name).meta.endpoint_url
        if not (is_loopback(url) and urlsplit(url).port == port):
            return None
    return running


def _local_cloud(endpoint: local.Endpoint, region: str) -> Cloud:
    session = _isolated_session(endpoint, region or endpoint.region)
    _check_region(session)
    url = endpoint.url
    cloud = _identified("local", session, f"{url}/checkip", url)
    patience = local.patience(os.environ)
    # Its hosts share this machine with the orchestrator.
    cores = os.cpu_count() or 1
    return replace(
        cloud,
        hosts_at_once=2 * cores,
        polls_per_second=30.0 * cores,
        rate_cap=endpoint.rate,
        conditions=local.conditions(endpoint),
        gone=lambda: not local.lives(endpoint),
        orphan_patience=patience.orphan,
        refused_patience=patience.refused,
        listed_within=LISTED_WITHIN if patience.listed is None else patience.listed,
    )


def _isolated_session(endpoint: local.Endpoint, region: str) -> boto3.Session:
    """Return a session that does not read the user's AWS configuration."""
    import boto3
    import botocore.session
    from botocore.loaders import Loader

    core = botocore.session.Session()
    store = core.get_component("config_store")
    for name, (_, _, default, _) in core.SESSION_VARIABLES.items():
        store.set_config_variable(name, default)
    for name in ("config_file", "credentials_file"):
        store.set_config_variable(name, os.devnull)
    store.set_config_variable("region", region)
    # Nor what the user's files say of services.
    described = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    core.register_component("data_loader", described)
    _prepare(core)
    return boto3.Session(
        botocore_session=core,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        aws_session_token=endpoint.session_token or None,
        region_name=region,
    )


def _identified(
    name: str,
    session: boto3.Session,
    checkip: str,
    endpoint: str | None = None,
    *,
    endpoints: bool = False,
) -> Cloud:
    """Return the cloud after asking it who the caller is, which shows that it answers.

    Args:
        endpoint: of all services; None: boto3 finds them.
        endpoints: whether boto3 may find others than AWS's.
    """
    clients = Clients(session, endpoint)
    with translated("reach the cloud"):
        caller = clients.get("sts").get_caller_identity()
        account, arn = str(caller["Account"]), str(caller["Arn"])
    custom = clients.custom_endpoints() if endpoints else {}
    return Cloud(
        name=name,
        region=session.region_name or "",
        account=account,
        owner=arn.rsplit("/", 1)[-1].rsplit(":", 1)[-1],
        endpoint=endpoint or custom.get("ec2"),
        # A cloud on this machine sees no public address of it.
        checkip="" if name == "aws" and is_loopback(custom.get("ec2", "")) else checkip,
        clients=clients,
        arn=arn,
        endpoints=custom,
    )


def local_summary() -> dict[str, Any]:
    """Start the local cloud if it is down, and return its own summary.

    Raises:
        CloudError: it did not start, or does not answer.
    """
    return local.summary(local.up())


def required(cloud: Cloud | None) -> Cloud:
    """Return `cloud`, or raise if the local cloud is meant and down."""
    if cloud is None:
        hint = "`fab local up` starts it; `fab start` does so by itself"
        raise CloudError("the local cloud is down", hint=hint)
    return cloud
