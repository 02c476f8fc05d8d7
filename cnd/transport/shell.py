"""The shell commands that a host runs: read its log, follow a worker's events.

One rule: a command that follows a file ends with its SSH session, whatever ends that;
no process of it is left on the host.
"""

from __future__ import annotations

import shlex

from cnd.model import system_log
from cnd.on_instance.watchdog import MOST_LOG
from cnd.pow import GENERATION

EVENTS = "events.jsonl"
LOOK = 0.2  # seconds
# In the run's folder: touched when the orchestrator gives a sign of life.
HEARD = "heard"

# With this an instance without an orchestrator reads its own system log.
LOG_COMMAND = system_log.command(MOST_LOG)
# The same log from its beginning on, as it grows.  When the connection drops, `cat`
# meets the end of its input, and the whole session ends.
TAIL_COMMAND = (
    "{ if test -r /var/log/syslog; then tail -n +1 -F /var/log/syslog; "
    "elif sudo -n test -e /var/log/messages; then "
    "sudo -n tail -n +1 -F /var/log/messages; "
    "else sudo -n journalctl -o short-iso --no-pager -n all -f; fi 2>/dev/null & }; "
    "cat >/dev/null; kill 0"
)
# Obeys a line "stop" at once; a line "alive" is a sign of life for the watchdog.  When
# the connection drops, `read` meets the end of its input, and the whole session ends:
# no process is left behind.
OBEY = (
    'while read -r word; do case "$word" in stop) kill -TERM "$pid";; '
    "alive) : >../" + HEARD + ";; esac; done; kill 0"
)
# Goes on in the session that started a worker, to which the worker itself writes its
# events: see `pow.Echo`.  Once the worker has ended, or died, the file has the rest.
OVER = b'{"event": "session.over"}'
KEEP = (
    "cd {folder} && : >../" + HEARD + " && read -r pid <worker.pid; "
    "{{ tail -s {look:g} --pid=$pid -c 0 -f /dev/null 2>/dev/null && "
    "echo '{over}'; }} & "
) + OBEY
DIED = b'{"event": "failed", "reason": "the worker died"}'
# Prints the events and obeys as above, both in one session.  GNU tail notices the
# worker's death soon, and new lines at once; where inotify(7) takes no more users, as
# with hundreds of hosts on one machine, it looks for them from time to time.  If the
# worker ended in order, its last event precedes `DIED`, which is no line of the file.
# A position counts in one generation of the file only: see `pow.Reporter.rotate`.
# A worker that has ended already has no pid any more: its events are printed as well.
FOLLOW = (
    "from={position}; "
    "cd {folder} && : >../" + HEARD + " && read -r pid <worker.pid; "
    "{{ read -r age <" + GENERATION + "; }} 2>/dev/null || age=0; "
    'if [ "$age" != {generation} ]; then from=1; fi; '
    'if [ "$pid" ] && tail -s 1 --pid=$$ -c 0 /dev/null 2>/dev/null; '
    'then mind="-s {look:g} --pid=$pid"; fi; '
    "{{ tail -c +$from $mind -f " + EVENTS + " && "
    "echo '{died}'; }} & "
) + OBEY
# A worker that ends clears its pid, after its last line is in the system log.
AFTER = (
    "n=0; while [ $n -lt 20 ] && read -r pid <{folder}/worker.pid"
    ' && kill -0 "$pid"; do n=$((n + 1)); sleep 0.05; done 2>/dev/null; '
)


def keep(folder: str) -> str:
    """Return the command that goes on in the session that has started a worker."""
    return KEEP.format(folder=shlex.quote(folder), look=LOOK, over=OVER.decode())


def follow(
    folder: str, position: int = 0, generation: int = 0, look: float = LOOK
) -> str:
    """Return the command that prints a worker's events from byte `position` on.

    If they are of a later generation by now: from the beginning on.

    Args:
        look: seconds between two looks for events, where none are notified.
    """
    return FOLLOW.format(
        folder=shlex.quote(folder),
        position=position + 1,
        generation=generation,
        look=look,
        died=DIED.decode(),
    )


def after(folder: str) -> str:
    """Return the prefix that delays a command until a worker ended, 1 s at most."""
    return AFTER.format(folder=shlex.quote(folder))


def was_started(folder: str) -> str:
    """Return the command that prints "yes" if a worker was ever started in `folder`."""
    path = shlex.quote(f"{folder}/{EVENTS}")
    return f"test -s {path} && echo yes; true"
