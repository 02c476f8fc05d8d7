"""What the first lines say of the instance type, by what AWS says of the account."""

from __future__ import annotations

import pytest

from cnd.cli.carry_out import with_type
from cnd.cli.option_fields import read
from cnd.cli.options import PlanOptions
from cnd.cli.request import request
from tests.support.clerk import stubbed


@pytest.mark.parametrize(
    ("plan", "hinted"), [("PAID", True), ("FREE", False), ("", True)]
)
def test_a_cheaper_type_than_the_default_is_named_unless_the_account_is_free(
    plan: str, hinted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"difficulty": "8", "instances": "1", "instance_type": "t3.micro"}
    options = read(PlanOptions, words)
    asked = request(options)
    with stubbed("freetier", endpoint="http://192.0.2.1") as clerk:
        reply = {"accountId": "1" * 12, "accountPlanStatus": "ACTIVE"}
        if plan:
            answer = {**reply, "accountPlanType": plan}
            clerk.answer("freetier", "get_account_plan_state", answer)
        else:
            clerk.refuse("freetier", "get_account_plan_state", "AccessDeniedException")
        assert with_type(asked, clerk.cloud, options) == asked
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("t3.micro $") == hinted
    assert ("--instance-type auto takes what is cheapest" in said) == hinted
    assert ("unless this account is in the free tier" in said) == (not plan)
