"""Where a URL leads: to AWS, or to this machine.

One rule: it only reads URLs.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

# The domains of AWS; https://docs.aws.amazon.com/general/latest/gr/rande.html
AWS_DOMAINS = (
    *("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "api.aws"),
    *("api.amazonwebservices.com.cn", "c2s.ic.gov", "sc2s.sgov.gov"),
)
AWS_URL = f"https://{AWS_DOMAINS[0]}"  # like one of them


def is_aws(url: str) -> bool:
    """Return whether a URL leads to AWS."""
    host = urlsplit(url).hostname or ""
    return any(host == name or host.endswith(f".{name}") for name in AWS_DOMAINS)


def check_port(url: str) -> None:
    """Raise ValueError for a port that cannot be."""
    if urlsplit(url).port == 0:
        raise ValueError(f"Invalid endpoint: {url}")


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine, so that no proxy may be used."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
