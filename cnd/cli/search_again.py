"""`start --on RUN`: a new search on the fleet that an earlier run left up.

One rule: whatever can be refused is refused before the new run has a folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnd.cli import settings
from cnd.cli.carry_out import conclude, new_journal, searched_on
from cnd.cli.connect import required
from cnd.cli.option_fields import read
from cnd.cli.options import StartOptions
from cnd.cli.output import say
from cnd.cli.report_at_end import reported
from cnd.cli.request import on_request
from cnd.errors import UsageError
from cnd.planning import forecast, instance_types
from cnd.planning.forecast import Request
from cnd.run import custom_worker, find_run, reuse, status
from cnd.run.journal import Journal, runs
from cnd.system import open_files
from cnd.system.folders import state_folder


def search_again(options: StartOptions, files: Sequence[settings.Source]) -> None:
    """Search on the fleet of the run `options.on`, and print the result.

    Args:
        files: what files say about options.
    """
    if not options.on:  # an unset variable: a new fleet is not what was meant
        raise UsageError("--on needs a run, not ''", hint="`fab runs` lists them")
    texts = {
        name: settings.setting(name, "", files).value for name in settings.DEFAULTS
    }
    asked = on_request(options, read(StartOptions, texts))
    former = Journal(find_run.pick(runs(), options.on))
    kept = reuse.order_of(former)
    place = (options.cloud or kept.cloud, options.region or kept.region)
    cloud = required(*place)
    reuse.check_place(former, kept, cloud)
    with reuse.claimed(kept.plan.fleet_of or former.run):
        listed = status.listed(cloud)
        left = reuse.left_by(former, kept, listed, cloud)
        for stray in status.strays(listed, cloud):
            say(stray)
        plan, extend = reuse.decided(
            left, asked.plan, options.instances, extend=options.extend
        )
        known = instance_types.machine(cloud, state_folder(), plan)
        plan = forecast.decide(Request(plan, True, None, options.budget), known)
        open_files.allow(plan.fleet_size)
        journal = new_journal()
        if options.worker:
            custom_worker.keep(options.worker, journal.folder)
        with reported(journal, wanted=not options.no_report):
            result = searched_on(left, plan, cloud, journal, options, extend=extend)
            conclude(result, options.json)
