"""What hosts without SSH have put into S3 is read, whatever S3 answers at first."""

from __future__ import annotations

import datetime as dt
from queue import Queue

from cnd import s3logs
from cnd.cloud.connection import Cloud
from cnd.ec2 import Instance
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.on_instance import agent, worker_events
from cnd.run.journal import Journal
from cnd.transport import s3_protocol
from cnd.transport.fleet import Part
from cnd.transport.s3_fleet import S3Fleet
from tests.support.faults import lay
from tests.support.local_cloud import LocalCloud

PLAN = Plan(difficulty=2, instances=1, time_limit=10)


def test_a_report_in_a_bucket_that_a_call_does_not_know_yet_is_read_later(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    bucket = s3logs.bucket_name(aws.account, aws.region)
    s3logs.ensure_bucket(aws.s3, bucket, aws.region, aws.account)
    now = dt.datetime.now(dt.timezone.utc)
    host = Instance("i-0", run, 0, "me", "t", "running", None, 22, "z", now, "")
    report = agent.packed(dict(worker_events.report(host.id, {}), log="booted"))
    name = "logs/Instance0.json"
    s3_protocol.put(aws.s3, bucket, run, name, report, owner=aws.account)
    lay(cloud.endpoint, "s3:GetObject", code="NoSuchBucket")
    events: Queue[Event] = Queue()
    fleet = S3Fleet(
        PLAN,
        Journal(run),
        aws.s3,
        bucket,
        put=events.put,
        owner=aws.account,
        polls_per_second=2,
    )
    fleet.serve(host, "Instance0", [Part(0, 0)])
    try:
        assert events.get(timeout=20).kind == "instance.ready"
    finally:
        fleet.close()
