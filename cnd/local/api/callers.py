"""Which callers the cloud accepts: programs of its user, and no web page.

One rule: a request with anything that only a browser adds is refused.  A page can send
requests to loopback and give it a name of its own (DNS rebinding), but it cannot hide
its origin or that name.  `signatures` checks that the caller is the user, as does the
token that only the user can read.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADERS = "cnd.headers"  # in the environment: (name, value), as they were sent
TOKEN = "HTTP_X_CND_TOKEN"  # X-Cnd-Token, as WSGI names it
OWN_SITE = ("none", "same-origin")
# moto's own interface: it can delete everything in the cloud, without a signature.
CLOSED = ("/moto-api", "/favicon.ico")


def refusal(environ: WSGIEnvironment) -> tuple[int, str] | None:
    """Return the HTTP status and the reason if a request is refused, else None."""
    host, port = environ.get("HTTP_HOST", ""), environ["SERVER_PORT"]
    if host.lower() not in (f"127.0.0.1:{port}", f"localhost:{port}"):
        return 403, f"This cloud answers to 127.0.0.1:{port} only."
    if not environ["RAW_URI"].startswith("/"):
        return 403, "A request must name a path."
    if "HTTP_ORIGIN" in environ:
        return 403, "Web pages may not use this cloud."
    if environ.get("HTTP_SEC_FETCH_SITE", "none").lower() not in OWN_SITE:
        return 403, "Web pages may not use this cloud."
    if environ["REQUEST_METHOD"] == "OPTIONS":
        return 403, "This cloud shares nothing with other origins."
    if environ["PATH_INFO"].startswith(CLOSED):
        return 404, "Not found."
    return None


def has_token(environ: WSGIEnvironment, token: str) -> bool:
    """Tell whether a request has the token of the cloud."""
    return hmac.compare_digest(environ.get(TOKEN, "").encode(), token.encode())
