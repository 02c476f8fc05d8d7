"""Whether an account is in AWS's free tier, as far as AWS says so.

One rule: an answer that does not come is "not known", and never prevents a launch.
"""

from __future__ import annotations

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import translated
from cnd.errors import CloudError

# The service answers there for all regions.  Source:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
REGION = "us-east-1"


def is_in(cloud: Cloud) -> bool | None:
    """Return whether the account is on the free plan; None: it is not known."""
    try:
        with translated("ask for the plan of the account"):
            client = cloud.clients.get("freetier", REGION)
            kind = str(client.get_account_plan_state()["accountPlanType"])
    except CloudError:
        return None
    return kind == "FREE"
