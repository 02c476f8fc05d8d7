"""What `cnd.cloud.connection` promises: the right cloud, or the reason why not."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import botocore
import pytest
from botocore.loaders import JSONFileLoader
from botocore.model import ServiceModel
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.cloud import models
from cnd.cloud.connection import Clients, Cloud, connect, required
from cnd.cloud.failures import LISTED_WITHIN
from cnd.cloud.models import Models
from cnd.errors import CloudError, CndError, UsageError
from cnd.provision.access import allowed_range, caller_address
from tests.support.local_cloud import LocalCloud
from tests.support.portal import portal
from tests.support.terminal import clean_environment

DATA = Path(botocore.__file__).parent / "data"
NOWHERE = "http://127.0.0.1:1"  # no program listens on the port of tcpmux


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without credentials, and with no local cloud up."""
    wanted = clean_environment(tmp_path)
    for name in set(os.environ) - set(wanted):
        monkeypatch.delenv(name)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud) -> Iterator[None]:
    """A user with AWS credentials, whose AWS is the local cloud."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", cloud.endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cloud.endpoint.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint.url)
    yield


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud) -> None:
    """The local cloud is the one of the tests, and it is up."""
    monkeypatch.setenv("XDG_STATE_HOME", str(cloud.endpoint.folder.parents[1]))


# --- what boto3's clients are made of


def test_a_client_is_made_without_a_look_at_every_service_of_aws(up: None) -> None:
    looked: list[str] = []
    watching = [True]  # a hook stays until Python ends

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "os.listdir":
            looked.append(str(arguments[0]))

    sys.addaudithook(hook)
    try:
        assert required(connect("local")).ec2
    finally:
        watching.clear()
    assert 0 < len([path for path in looked if "botocore" in path]) < 50


@pytest.mark.parametrize(
    "name",
    [
        *("endpoints", "s3/2006-03-01/service-2", "no-such-service/service-2"),
        *("ec2/2016-11-15/service-2", "ssm/2014-11-06/service-2"),
    ],
)
def test_what_botocore_knows_is_read_as_it_is_but_into_plain_dicts(
    up: None, name: str
) -> None:
    there = required(connect("local"))  # whose clients have read it, and keep to that
    assert there.ec2.describe_instances() and there.s3.list_buckets()
    assert there.ssm.describe_parameters()
    path = str(DATA / name)
    found = Models().load_file(path)
    assert found == JSONFileLoader().load_file(path)
    assert type(found) is (type(None) if name.startswith("no-") else dict)


@pytest.mark.parametrize("name", ["endpoints", "s3/2006-03-01/service-2"])
def test_what_was_read_ahead_is_handed_out_once_as_botocore_writes_into_it(
    name: str,
) -> None:
    models.read_ahead(["s3"])
    path = str(DATA / name)
    first = Models().load_file(path)
    assert first == JSONFileLoader().load_file(path)
    first.clear()
    assert Models().load_file(path) == JSONFileLoader().load_file(path)


def test_no_client_searches_for_errors_where_ec2_describes_none(up: None) -> None:
    there = required(connect("local"))
    # Before any call is refused.
    assert vars(there.ec2.meta.service_model)["error_shapes"] == []
    described = Models().load_file(str(DATA / "ec2/2016-11-15/service-2"))
    assert ServiceModel(described, "ec2").error_shapes == []
    assert there.ssm.meta.service_model.error_shapes  # as they are


# --- which cloud


def test_how_long_a_launch_may_be_unlisted_is_the_local_clouds_to_say(
    up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert required(connect("local")).listed_within == LISTED_WITHIN == 20.0
    monkeypatch.setenv("CND_LOCAL_LISTED_SECONDS", "0")
    assert required(connect("local")).listed_within == 0.0


def test_without_credentials_the_local_cloud_is_meant(
    up: None, cloud: LocalCloud
) -> None:
    for choice in ("", "local"):
        found = required(connect(choice))
        assert (found.name, found.endpoint) == ("local", cloud.endpoint.url)
        assert found.title.startswith(f"cloud: local ({cloud.endpoint.url}")
        assert found.account.isdecimal()
        assert found.owner
        assert found.ec2.describe_instances()


def test_with_credentials_aws_is_meant(student: None, cloud: LocalCloud) -> None:
    for choice in ("", "aws"):
        found = required(connect(choice))
        assert (found.name, found.region) == ("aws", "us-west-2")
        # It is on this machine, of which no service needs to know the address.
        assert allowed_range(found, "") == "127.0.0.1/32"
        assert found.title == (
            f"cloud: AWS account {found.account}, region us-west-2, "
            f"endpoint {cloud.endpoint.url}"
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_users_own_local_cloud_is_recognised_by_its_endpoint(
    student: None,
    up: None,
    monkeypatch: pytest.MonkeyPatch,
    cloud: LocalCloud,
    host: str,
) -> None:
    """As `fab local up` prints it for other programs: no address service is asked."""
    url = cloud.endpoint.url.replace("127.0.0.1", host)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{url}/")
    found = required(connect())
    assert (found.name, found.region) == ("local", "us-west-2")
    assert found.title.startswith(f"cloud: local ({cloud.endpoint.url}")
    assert caller_address(found.checkip) == "127.0.0.1"
    assert required(connect("aws")).name == "aws"


def test_a_local_cloud_that_serves_only_some_services_is_an_endpoint_as_any_other(
    student: None, up: None, monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    found = required(connect())
    assert found.name == "aws"
    assert "s3 at http://127.0.0.1:9" in found.title
    assert f"ec2 at {cloud.endpoint.url}" in found.title


def test_another_endpoint_is_not_taken_for_the_local_cloud_that_is_up(
    student: None, up: None, monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud
) -> None:
    with portal(cloud.endpoint) as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        found = required(connect())
    assert found.name == "aws"
    assert found.title.endswith(f"endpoint {other.url}")


def test_local_is_local_even_with_credentials(
    student: None, up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    assert required(connect("local")).name == "local"


def test_a_given_region_overrides_the_configured_one(
    student: None, cloud: LocalCloud
) -> None:
    assert required(connect("", "eu-central-1")).region == "eu-central-1"


def test_the_local_cloud_has_every_region(up: None) -> None:
    found = required(connect("local", "ap-southeast-2"))
    assert found.region == "ap-southeast-2"
    assert found.ec2.meta.region_name == "ap-southeast-2"


def test_a_local_cloud_that_is_down_is_none() -> None:
    assert connect() is None
    assert connect("local") is None
    with pytest.raises(CloudError, match="the local cloud is down") as caught:
        required(None)
    assert "fab local up" in (caught.value.hint or "")


# --- refusals


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="--cloud must be aws or local, not 'azure'"):
        connect("azure")


def test_aws_without_credentials_is_refused() -> None:
    with pytest.raises(UsageError, match="boto3 finds no AWS credentials") as caught:
        connect("aws")
    assert "aws configure" in (caught.value.hint or "")


def test_aws_without_a_region_is_refused(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="no AWS region is configured"):
        connect()


@pytest.mark.parametrize("region", ["mars-1", "eu west 2", "eu-west-2.example.org"])
def test_what_cannot_be_a_region_is_refused(
    student: None, up: None, region: str
) -> None:
    for choice in ("aws", "local"):
        with pytest.raises(UsageError, match="no such AWS region") as caught:
            connect(choice, region)
        assert region in str(caught.value)


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(UsageError, match="no-such-profile"):
        connect()


def test_a_dead_endpoint_is_reported_in_one_line_and_soon(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    began = time.monotonic()
    with pytest.raises(CloudError, match="could not reach the cloud") as caught:
        connect()
    assert "\n" not in str(caught.value)
    assert "AWS_ENDPOINT_URL" in (caught.value.hint or "")
    assert time.monotonic() - began < 30


def test_an_endpoint_that_is_no_url_is_reported_in_one_line(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises((UsageError, CloudError)) as caught:
        connect()
    assert "\n" not in str(caught.value)


def test_half_a_pair_of_credentials_is_reported_in_one_line(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises((UsageError, CloudError)) as caught:
        connect()
    assert "\n" not in str(caught.value)


def test_a_broken_configuration_is_reported_in_one_line(
    student: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "config"
    broken.write_text("[default\nregion")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(broken))
    with pytest.raises((UsageError, CloudError)) as caught:
        connect()
    assert "\n" not in str(caught.value)


# --- clients


def test_a_client_is_created_once_by_any_number_of_threads(
    student: None, cloud: LocalCloud
) -> None:
    clients: Clients = required(connect()).clients
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(clients.get, ["sqs"] * 8))
    assert all(client is made[0] for client in made)


# --- what is configured on the user's machine

AWFUL = {
    "twice": b"[default]\nregion = eu-west-2\n[default]\nregion = eu-west-2\n",
    "broken": b"[default\nregion",
    "bom": b"\xef\xbb\xbf[default]\nregion = eu-west-2\n",
    "utf-16": "[default]\nregion = eu-west-2\n".encode("utf-16"),
    "accelerated": b"[default]\ns3 =\n  use_accelerate_endpoint = true\n",
    "binary": bytes(range(256)),
}
ODD = {
    "AWS_PROFILE": "no-such-profile",
    "AWS_DEFAULTS_MODE": "odd",
    "AWS_STS_REGIONAL_ENDPOINTS": "odd",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "odd",
    "AWS_RETRY_MODE": "odd",
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_CA_BUNDLE": "/no/such/bundle",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_ENDPOINT_URL_S3": NOWHERE,
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "ALL_PROXY": NOWHERE,
    "http_proxy": NOWHERE,
}


def works(found: Cloud) -> None:
    assert found.ec2.describe_instances()
    assert found.sqs.list_queues()
    bucket = f"there-{time.monotonic_ns()}"
    found.s3.create_bucket(Bucket=bucket)
    found.s3.put_object(Bucket=bucket, Key="key", Body=b"text")
    assert caller_address(found.checkip) == "127.0.0.1"


@pytest.mark.parametrize("what", AWFUL)
def test_the_local_cloud_reads_no_aws_configuration(
    up: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(AWFUL[what])
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    works(required(connect("local", "us-east-1")))


def test_the_local_cloud_ignores_every_variable_for_aws(
    up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ODD.items():
        monkeypatch.setenv(name, value)
    works(required(connect("local", "us-east-1")))


@pytest.mark.parametrize("what", ["twice", "broken", "bom", "utf-16", "binary"])
@pytest.mark.parametrize("choice", ["", "aws"])
def test_a_configuration_that_boto3_cannot_read_is_named_with_a_way_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, choice: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(AWFUL[what])
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    with pytest.raises((UsageError, CloudError)) as caught:
        connect(choice)
    assert str(path) in f"{caught.value} {caught.value.hint}"
    assert "--cloud local" in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_any_bytes_as_aws_configuration_are_used_or_refused_in_one_line(
    student: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    syntax = b"[default]\n|[|]|\n|region|retry_mode|s3|max_attempts|sso_session"
    syntax += (
        b"|credential_process|source_profile| = |  |5|us-east-1|[profile a]\n|\xe9"
    )
    words = st.sampled_from(syntax.split(b"|"))

    @settings(deadline=None, max_examples=count, database=None)
    @given(st.one_of(st.binary(), st.lists(words, max_size=12).map(b"".join)))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            required(connect("aws"))
        except CndError as error:
            assert "\n" not in str(error)

    check()


@pytest.mark.parametrize("name", ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("value", ["AKIA\nX-Amz-Odd: 1", "\udcff\udcfe", "a\tb"])
def test_credentials_that_no_request_can_carry_are_named_and_not_shown(
    student: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(CloudError, match="the credentials in the environment") as told:
        connect("aws")
    assert "AWS_ACCESS_KEY_ID" in (told.value.hint or "")
    assert not any(part in str(told.value) for part in ("\n", "AKIA", "Signature"))


def test_a_proxy_that_does_not_answer_is_what_is_to_be_checked(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://cloud.example")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    with pytest.raises(CloudError) as caught:
        connect("aws")
    assert "HTTP_PROXY" in (caught.value.hint or "")


def test_a_file_of_certificates_that_is_missing_is_what_is_to_be_checked(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/bundle")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
        with pytest.raises(CloudError) as caught:
            connect("aws")
    assert "AWS_CA_BUNDLE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "setting", ["request_min_compression_size_bytes = odd", "services = none"]
)
def test_a_setting_that_no_client_can_be_made_with_leads_to_the_file(
    student: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str
) -> None:
    path = tmp_path / "config"
    path.write_text(f"[default]\nregion = us-west-2\n{setting}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(CloudError) as caught:
        connect("aws")
    assert str(path) in (caught.value.hint or "")


@pytest.mark.parametrize("text", [b"[", b"\xff\xfe", b"{"])
@pytest.mark.parametrize("name", ["endpoints.json", "sts/2099-01-01/service-2.json"])
def test_a_description_of_services_that_cannot_be_read_is_aws_s_only(
    up: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: bytes
) -> None:
    path = tmp_path / "models" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path / "models"))
    works(required(connect("local", "us-east-1")))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(CloudError) as caught:
        connect("aws", "us-west-2")
    assert str(tmp_path / "models") in (caught.value.hint or "")


def test_an_endpoint_on_this_machine_is_never_asked_through_a_proxy(
    student: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    assert required(connect("aws")).ec2.describe_instances()


def test_an_endpoint_elsewhere_is_called_through_the_proxy(
    student: None, monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud
) -> None:
    with portal(cloud.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://cloud.example")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        proxy.answer = "html"
        with pytest.raises(CloudError, match="it is HTML"):
            connect("aws")
        assert proxy.calls == ["GetCallerIdentity"] * 4


def test_the_endpoint_of_a_service_overrides_that_of_all(
    student: None, monkeypatch: pytest.MonkeyPatch, cloud: LocalCloud
) -> None:
    with portal(cloud.endpoint) as storage:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage.url)
        found = required(connect("aws"))
        assert found.s3.list_buckets()
        assert found.ec2.describe_instances()
        assert storage.calls == ["GET /"]
        assert f"s3 at {storage.url}" in found.title
        assert f"ec2 at {cloud.endpoint.url}" in found.title


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://s3.example.com", "https://s3.example.com/bucket/key"),
        ("", "https://bucket.s3.us-west-2.amazonaws.com/key"),
        (
            "https://s3.us-west-2.amazonaws.com",
            "https://bucket.s3.us-west-2.amazonaws.com/key",
        ),
    ],
)
def test_only_at_an_endpoint_of_aws_the_bucket_is_part_of_the_host_name(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str
) -> None:
    if url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    session = boto3.Session("id", "secret", region_name="us-west-2")
    s3 = Clients(session, None).get("s3")
    signed = s3.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert signed.partition("?")[0] == address
