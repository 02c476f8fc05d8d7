"""moto, loaded and ready: its WSGI application, with hosts behind its instances.

One rule: everything that would make a client's first call slow is done here, in the
background.  Importing this file imports moto.
"""

from __future__ import annotations

import functools
import importlib
import os
import string
from typing import TYPE_CHECKING, Any

import boto3.session
import botocore.session
from botocore.loaders import Loader
from werkzeug.test import Client

from cnd.local.api.host_manager import HostManager

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from cnd.local.account_kinds import AccountKind
    from cnd.local.api.instances import Instances
    from cnd.local.api.weather.instances import InstanceTimes

MOST_NAMES = 256  # of services in regions, whose backends are cached
# One call per service loads its API description; the most urgent first.
FIRST_CALLS = (
    ("ec2", "", "Action=DescribeInstances&Version=2016-11-15"),
    ("ssm", "AmazonSSM.DescribeParameters", "{}"),
    ("sqs", "AmazonSQS.ListQueues", "{}"),
    ("sts", "", "Action=GetCallerIdentity&Version=2011-06-15"),
    ("s3", "", ""),
)


@functools.cache
def prepare() -> None:
    """Change moto where it computes the same again and again; safe to repeat.

    This is the same for every cloud, whatever its settings.
    """
    Loader.CUSTOMER_DATA_PATH = os.devnull  # ignore the user's files about services
    session = _share_one_session()
    _list_modules_once()
    _read_models_once(session)
    _draw_each_id_at_once()

    from cnd.local.api import moto_replies

    moto_replies.install()


def read(service: str) -> None:
    """Read all that a service's first call would wait for, but make no state of it."""
    prepare()
    from moto import backends
    from moto.core import DEFAULT_ACCOUNT_ID  # type: ignore[attr-defined]
    from moto.core.utils import get_service_model
    from moto.moto_server import werkzeug_app  # noqa: F401

    backends.get_backend(service)[DEFAULT_ACCOUNT_ID]  # type: ignore[call-overload]
    importlib.import_module(f"moto.{service.replace('-', '')}.urls")
    get_service_model(service)


def load(
    hosts: HostManager, times: InstanceTimes, account: AccountKind
) -> tuple[Instances, WSGIApplication]:
    """Import moto; let its instances be `hosts`."""
    prepare()
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )

    from cnd.local.api import accounts, images, networks, templates
    from cnd.local.api.instances import Instances

    accounts.install(account)
    images.install()
    networks.install()
    templates.install(account)
    instances = Instances(hosts, times, account)
    instances.install()
    application = DomainDispatcherApplication(create_backend_app)
    _find_backends_once(application)
    application.app_instances["ec2"] = create_backend_app("ec2")
    return instances, application


def warm_up(application: WSGIApplication) -> None:
    """Make one call without effect to each service that CND uses."""
    client = Client(application)
    for service, target, body in FIRST_CALLS:
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 Credential="
            f"warm/20260101/us-east-1/{service}/aws4_request"
        }
        if target:
            headers |= {"X-Amz-Target": target}
        kind = "x-amz-json-1.0" if target else "x-www-form-urlencoded"
        client.open(
            method="POST" if body else "GET",
            data=body or None,
            headers=headers,
            content_type=f"application/{kind}",
        )


def _list_modules_once() -> None:
    """Let moto list the folder of its services once, not for each request.

    Listing took a sixth of the time of a small request (moto 5.2, measured).
    """
    from moto import backends

    modules = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: modules


def _find_backends_once(application: Any) -> None:
    """Let moto look up the backend of a service once, not for each request.

    It tries one pattern after the other: up to 18 us, while checking a signature takes
    34 us (moto 5.2, measured).
    """
    find = application.get_backend_for_host
    application.get_backend_for_host = functools.lru_cache(MOST_NAMES)(find)


def _read_models_once(session: botocore.session.Session) -> None:
    """Let moto and `session` read the descriptions of services with one loader.

    moto makes a loader for each service, which lists all services of AWS again, and
    both read EC2's 4 MB: a fifth of the computing time of a start (moto 5.2, measured).
    """
    from moto.core import loaders, utils

    loader = loaders.create_loader()
    utils.create_loader = lambda: loader  # type: ignore[attr-defined]
    session.register_component("data_loader", loader)


def _draw_each_id_at_once() -> None:
    """Let moto draw an id as one number, not digit by digit.

    The snapshots of its 1300 images took a quarter of the loading (moto 5.2, measured).
    """
    from moto.ec2 import utils
    from moto.moto_api._internal import mock_random
    from moto.moto_api._internal.moto_random import MotoRandom

    def random_resource_id(size: int = 8) -> str:
        return f"{mock_random.getrandbits(4 * size):0{size}x}"

    def get_random_string(
        self: MotoRandom,
        length: int = 20,
        include_digits: bool = True,
        lower_case: bool = False,
    ) -> str:
        pool = string.ascii_letters + (string.digits if include_digits else "")
        drawn = "".join(self.choices(pool, k=length))
        return drawn.lower() if lower_case else drawn

    utils.random_resource_id = random_resource_id
    MotoRandom.get_random_string = get_random_string  # type: ignore[method-assign]


def _share_one_session() -> botocore.session.Session:
    """Let moto use one session for all its lists of regions; return it.

    It makes a new session for each list, and each session reads botocore's endpoints
    again: 0.3 s of a start that takes 1.1 s (moto 5.2, measured).
    """
    core = botocore.session.Session()
    shared = boto3.session.Session(botocore_session=core)
    plain = boto3.session.Session.get_available_regions

    def get_available_regions(
        self: boto3.session.Session, *args: str, **named: str
    ) -> list[str]:
        return plain(shared, *args, **named)  # type: ignore[arg-type]

    boto3.session.Session.get_available_regions = get_available_regions  # type: ignore[method-assign,assignment]
    return core
