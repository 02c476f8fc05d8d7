"""The local cloud's connections: kept where both sides know the end, else closed."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cnd.local import Endpoint
from tests.support.local_cloud import LocalCloud

SECONDS = 60.0
QUERY = "Action=DescribeRegions&Version=2016-11-15"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def endpoint(cloud: LocalCloud) -> Endpoint:
    return cloud.endpoint


@pytest.fixture
def connection(endpoint: Endpoint) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(
        urlsplit(endpoint.url).netloc, timeout=SECONDS
    )
    yield connection
    connection.close()


def signed(endpoint: Endpoint, method: str, path: str, body: str) -> dict[str, str]:
    """Return the headers of a signed request: to S3, or with "/" to EC2."""
    request = AWSRequest(method, endpoint.url + path, data=body, headers=dict(FORM))
    keys = Credentials(endpoint.access_key, endpoint.secret_key)
    service, signer = ("ec2", SigV4Auth) if path == "/" else ("s3", S3SigV4Auth)
    signer(keys, service, endpoint.region).add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def connected(endpoint: Endpoint) -> socket.socket:
    url = urlsplit(endpoint.url)
    assert url.port
    return socket.create_connection(("127.0.0.1", url.port), timeout=SECONDS)


def call(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: str,
    headers: dict[str, str],
) -> int:
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    reply.read()
    return reply.status


def test_many_calls_are_answered_on_one_connection(
    endpoint: Endpoint, connection: http.client.HTTPConnection
) -> None:
    asked = [
        ("POST", "/", QUERY),
        ("PUT", "/a-bucket-of-http", ""),
        ("GET", "/a-bucket-of-http", ""),
    ]
    asked += [("PUT", "/a-bucket-of-http/key", "text"), ("POST", "/", QUERY)]
    asked += [("DELETE", "/a-bucket-of-http/key", ""), ("POST", "/", QUERY)]
    connection.connect()
    first = connection.sock
    for method, path, body in asked:
        head = signed(endpoint, method, path, body)
        status = call(connection, method, path, body, head)
        assert status == (204 if method == "DELETE" else 200), (method, path)
        assert connection.sock is first


def test_a_client_that_asks_for_the_end_of_its_connection_gets_it(
    endpoint: Endpoint, connection: http.client.HTTPConnection
) -> None:
    head = signed(endpoint, "POST", "/", QUERY) | {"Connection": "close"}
    assert call(connection, "POST", "/", QUERY, head) == 200
    assert connection.sock is None


def test_what_follows_a_refused_body_is_not_taken_for_a_request(
    endpoint: Endpoint,
) -> None:
    url = urlsplit(endpoint.url)
    inner = f"GET /cnd/status HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n"
    body = inner.encode() * 20_000  # more than any buffer holds
    head = f"PUT /a/b HTTP/1.1\r\nHost: {url.netloc}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with connected(endpoint) as sent:
        sent.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: sent.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_whose_end_the_head_does_not_say_ends_its_connection(
    endpoint: Endpoint, connection: http.client.HTTPConnection
) -> None:
    connection.putrequest("PUT", "/a/b")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(b"4\r\ntext\r\n0\r\n\r\n")
    reply = connection.getresponse()
    reply.read()
    assert (reply.status, reply.getheader("Connection")) == (403, "close")


def test_a_client_that_goes_away_in_its_body_leaves_the_cloud_as_it_was(
    endpoint: Endpoint, connection: http.client.HTTPConnection
) -> None:
    head = signed(endpoint, "POST", "/", QUERY)
    lines = [f"{name}: {value}\r\n" for name, value in head.items()]
    url = urlsplit(endpoint.url)
    text = f"POST / HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 40\r\n"
    with connected(endpoint) as sent:
        sent.sendall((text + "".join(lines) + "\r\nAction=").encode())
    assert call(connection, "POST", "/", QUERY, head) == 200
