"""Starts LocalStack with a key that another cloud has made; run by its own Python.

LocalStack verifies pre-signed URLs and forms against the secret of the key that they
name.  It knows the keys that its IAM has made, and so it is told of this one, and of
which account it is.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from localstack import constants  # type: ignore[import-not-found]

constants.DEFAULT_AWS_ACCOUNT_ID = account = os.environ["JUDGE_ACCOUNT"]

from localstack.runtime import main  # type: ignore[import-not-found]  # noqa: E402
from moto.iam.models import iam_backends  # noqa: E402

if __name__ == "__main__":
    key, secret = os.environ["JUDGE_ACCESS_KEY"], os.environ["JUDGE_SECRET_KEY"]
    keys: dict[str, object] = iam_backends[account]["aws"].access_keys  # type: ignore
    keys[key] = SimpleNamespace(secret_access_key=secret)
    main.main()
