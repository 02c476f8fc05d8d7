"""A run's report: one HTML file that needs no network, no script and no other file.

One rule: text in, text out; everything that a run has told is escaped, since a worker's
output is another machine's.  The page's policy forbids it every request besides.
"""

from __future__ import annotations

import datetime as dt
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

import cnd
from cnd.model.events import Event, amount, printable_line
from cnd.model.format import duration
from cnd.model.format import number as short
from cnd.view.colors import COLORS
from cnd.view.timeline import PHASES, InstanceHistory, Timeline, list_usd, phases_of

REMARKS = 60  # lines of what went on besides
FOLDED = 16  # rows; a longer table is folded
TOLD = (
    *("run.attached", "run.stop_requested", "run.aborted"),
    *("instance.lost", "host.failed", "host.reconnecting", "host.returned"),
    *("class.handed_over", "worker.failed", "worker.refuted", "worker.noise"),
    *("log.failed", "cloud.trouble"),
)
CAPTIONS = {
    "timeline": ("Where the time went", "What each instance did, and when."),
    "rate": ("Hash rate", "From what the workers say they have tested."),
    "coverage": ("Coverage", "Nonces of each residue class that were tested."),
    "stops": ("Stop latency", "From the decision to each worker's last word."),
    "bill": (
        "What the bill counts",
        "Seconds of running instances, by what they did; each is billed 60 s at least.",
    ),
}


class Drawn(Protocol):
    """A picture as the page takes it."""

    @property
    def inline(self) -> tuple[str, ...]:
        """SVG elements: for a wide and a narrow page, or one for both."""


def page(line: Timeline, pictures: Mapping[str, Drawn], logs: Iterable[str]) -> str:
    """Return the report as HTML.

    Args:
        pictures: by their names, see `CAPTIONS`; those that are not there are left out.
        logs: names of the files in the folder ``logs`` beside the report.
    """
    body = (
        _head(line),
        _tiles(line),
        _figures(line, pictures),
        _phases(line),
        _facts(line),
        _instances(line, frozenset(logs)),
        _remarks(line),
        _foot(line),
    )
    title = f"CND {line.run}: {_headline(line)}"
    dots = "".join(
        f".{name.replace(' ', '-')} {{ background: {color}; }}\n"
        for name, color in COLORS.items()
    )
    return PAGE.format(title=_text(title), css=CSS + dots, body="\n".join(body))


def _text(value: object, most: int = 300) -> str:
    """Return a value of unknown origin as HTML text, at most so many characters."""
    text = printable_line(str(value))
    return html.escape(text if len(text) <= most else f"{text[:most]}…")


# --- the parts of the page


def _headline(line: Timeline) -> str:
    what, found = _answer(line)
    if found is not None:
        return f"{what} {found}"
    return {
        "timeout": "Time limit reached",
        "exhausted": f"No {what.lower()} exists",
        "stopped": "Stopped on request",
        "incomplete": "Incomplete: hosts failed",
        "aborted": "Broken off",
        "unfinished": "Not ended yet",
    }.get(line.outcome, line.outcome)


def _answer(line: Timeline) -> tuple[str, object]:
    """Return what was looked for, and what was found of it, or None."""
    result = line.result
    if not line.wish.get("script"):
        return "Golden nonce", result.get("nonce")
    what = "Answer" if result.get("verified") in (True, None) else "Unverified answer"
    return what, result.get("answer") or result.get("nonce")


def _head(line: Timeline) -> str:
    result, wish = line.result, line.wish
    when = dt.datetime.fromtimestamp(line.began).astimezone()
    digest = str(result.get("hash") or "")
    if digest:
        zeros = int(result.get("difficulty") or 0)
        shown = f"<b>{_text(digest[:zeros])}</b>{_text(digest[zeros:])}"
        told = f'<p class="hash">{shown}</p>'
    else:
        told = f'<p class="why">{_text(line.reason)}</p>'
    headline = _text(_headline(line))
    name, found = _answer(line)
    if found is not None:
        headline = f"{name} <em>{_text(found)}</em>"
    of_ones_own = "a worker of one's own"
    task = of_ones_own if wish.get("script") else f"difficulty {wish.get('difficulty')}"
    what = (
        f"{_text(_size(line))} &times; {_text(wish.get('type', '?'))} · "
        f"{_text(task)} · {when:%Y-%m-%d %H:%M:%S %Z}"
    )
    return (
        f'<header class="{_text(line.outcome)}"><p class="run">CND run '
        f"{_text(line.run)}</p><h1>{headline}</h1>{told}<p>{what}</p></header>"
    )


def _tiles(line: Timeline) -> str:
    took = line.result.get("seconds") or {}
    rate = amount(line.result.get("hash_rate"))
    stops = line.stops
    last = f"the last of {len(stops)}" if stops else "nobody had to be stopped"
    tiles = [
        ("total", duration(line.seconds), "from the command to the end"),
        ("search", duration(amount(took.get("search"))), "first worker to decision"),
        ("tested", short(line.tested) if line.counted else "-", "nonces"),
        ("hash rate", short(rate) if rate else "-", "nonces/s together"),
        ("stop", duration(stops[-1].stop if stops else None), last),
        ("price", *_price(line)),
    ]
    return '<section class="tiles">{}</section>'.format(
        "".join(
            f"<div><h2>{name}</h2><p>{_text(value)}</p><small>{note}</small></div>"
            for name, value, note in tiles
        )
    )


def _price(line: Timeline) -> tuple[str, str]:
    """Return what the run cost, and how that is known or meant."""
    usd, listed = amount(line.result.get("usd")), list_usd(line)
    so_far = "so far, " if line.result.get("left_running") else ""
    if line.result.get("cloud") == "local" or not line.result:
        on_aws = f"{_usd(listed)} on AWS" if listed else "on the local cloud"
        return ("nothing" if usd == 0 else "-"), on_aws
    if usd is None:
        return "-", "a price is not known"
    return _usd(usd), f"{so_far}by the price before the launch"


def _usd(price: float) -> str:
    return f"${price:.4f}"


def _figures(line: Timeline, pictures: Mapping[str, Drawn]) -> str:
    shown = []
    for name, (title, told) in CAPTIONS.items():
        if name not in pictures:
            continue
        inline = pictures[name].inline
        classes = ("wide", "narrow") if len(inline) > 1 else ("",)
        drawn = "".join(
            f'<div class="{kind}" role="img" aria-label="{title}">{svg}</div>'
            for kind, svg in zip(classes, inline, strict=True)
        )
        note = _note(name, line)
        told = f"{told} {note}" if note else told
        span = ' class="full"' if len(inline) > 1 else ""
        files = " · ".join(
            f'<a href="figures/{name}.{kind}">{kind.upper()}</a>'
            for kind in ("png", "svg")
        )
        caption = (
            f"<figcaption><h2>{title}</h2><p>{told}</p>"
            f'<p class="files">{files}</p></figcaption>'
        )
        shown.append(f"<figure{span}>{caption}{drawn}</figure>")
    return f'<section class="figures">{"".join(shown)}</section>' if shown else ""


def _note(name: str, line: Timeline) -> str:
    """Return what a figure shows, in a sentence; it holds numbers only."""
    if name == "timeline" and line.searching is not None:
        searched = sum(life.seconds("search") for life in line.lives)
        whole = sum(span.seconds for life in line.lives for span in life.spans)
        return (
            f"{100 * searched / (whole or 1):.0f} % of all instances' time was search; "
            f"the first worker began after {duration(line.searching)}."
        )
    if name == "coverage":
        size = sum(each.size for each in line.classes)
        share = 100 * line.tested / (size or 1)
        least = "" if line.counted else "at least "
        return f"Together {least}{share:.3g} % of {short(size)} nonces."
    if name == "bill":
        usd, listed = amount(line.result.get("usd")), list_usd(line)
        if usd or line.result.get("cloud") == "aws":
            return f"Together {_usd(usd)}." if usd else ""
        return f"On AWS: {_usd(listed)}, by list price." if listed else ""
    if name == "stops":
        stops = [life.stop or 0.0 for life in line.stops]
        middle = duration(stops[(len(stops) - 1) // 2])
        return (
            f"Half of {len(stops)} within {middle}, all within {duration(stops[-1])}."
        )
    return ""


def _phases(line: Timeline) -> str:
    found = phases_of(line.lives)
    if not found:
        return ""
    rows = [
        (
            f'<i class="dot {name.replace(" ", "-")}"></i>{name}',
            f'<span class="wide">{PHASES[name]}</span>',
            f"{len(seconds)}",
            duration(seconds[0]),
            duration(median(seconds)),
            duration(seconds[-1]),
        )
        for name, seconds in found.items()
    ]
    told = '<span class="wide">what it is</span>'
    head = ("phase", told, "count", "shortest", "median", "longest")
    return _section("Phases", _table(head, rows, numbers=range(2, 6)))


def _facts(line: Timeline) -> str:
    rows = [
        (f'<span class="k">{name}</span>', _text(value)) for name, value in facts(line)
    ]
    return _section("Facts", _table((), rows, kind="facts"))


def facts(line: Timeline) -> list[tuple[str, str]]:
    """Return what is known of a run, as names and text; the text is not escaped."""
    result, wish = line.result, line.wish
    ended = sum(life.end != "not seen terminated" for life in line.lives)
    script, verified = wish.get("script"), result.get("verified")
    difficulty = None if script else wish.get("difficulty")
    found = [
        ("outcome", f"{line.outcome}: {line.reason}"),
        ("nonce", result.get("nonce")),
        ("hash", result.get("hash")),
        ("answer", result.get("answer")),
        ("verified", None if verified is None else "yes" if verified else "NO"),
        ("found by", _finder(result)),
        ("block", wish.get("block")),
        ("difficulty", difficulty),
        ("nonce space", _counted(wish.get("nonces"))),
        ("time limit", _limit(wish.get("time_limit"))),
        ("instances", f"{_size(line)} x {wish.get('type')}"),
        ("cloud", _cloud(result)),
        ("kernel", result.get("kernel")),
        ("tested", _tested(line)),
        ("tested twice", result.get("repeated") or None),
        ("chance of a find by then", _chance(difficulty, line.tested)),
        ("times", _times(result)),
        ("price", ", ".join(_price(line))),
        ("terminated", f"{ended} of {len(line.lives)} instances launched"),
        ("left running", result.get("left_running")),
        ("logs", (result.get("logs") or {}).get("s3")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _tested(line: Timeline) -> str:
    return f"{line.tested:,} nonces, each counted once" if line.counted else "-"


def _counted(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _limit(value: object) -> str:
    return f"{value:g} s" if isinstance(value, (int, float)) else ""


def _size(line: Timeline) -> str:
    """Say how many instances there were, and were wanted, if that is not the same."""
    wanted = line.wish.get("instances", "?")
    had = line.result.get("instances", wanted)
    return f"{had}" if had == wanted else f"{had} (of {wanted})"


def _finder(result: Mapping[str, Any]) -> str:
    if result.get("index") is None:
        return ""
    return f"Instance{result['index']} ({result.get('instance_id')})"


def _cloud(result: Mapping[str, Any]) -> str:
    if not result:
        return ""
    name = str(result.get("cloud"))
    return f"{name}, {result.get('region')}"


def _chance(difficulty: object, tested: int) -> str:
    if not isinstance(difficulty, int) or not tested:
        return ""
    if difficulty == 0:
        return "100 %"
    chance = -math.expm1(tested * math.log1p(-(16.0**-difficulty)))
    return f"{100 * chance:.3g} %"


def _times(result: Mapping[str, Any]) -> str:
    took = result.get("seconds") or {}
    names = ("boot", "search", "stop", "logs", "scram", "total")
    told = [
        f"{n} {duration(amount(took[n]))}" for n in names if took.get(n) is not None
    ]
    return " · ".join(told)


def _instances(line: Timeline, logs: frozenset[str]) -> str:
    if not line.lives:
        return ""
    rows = [_row(life, logs) for life in line.lives]
    head = ("", "id", "zone", "address", "boot", "push", "search", "tested")
    more = ("nonces/s", "kernel", "stop", "end")
    table = _table((*head, *more), rows, numbers=(4, 5, 6, 7, 8, 10), kind="nowrap")
    return _section(f"Instances ({len(rows)})", table, folded=len(rows) > FOLDED)


def _row(life: InstanceHistory, logs: frozenset[str]) -> tuple[str, ...]:
    name = f"Instance{life.index}"
    if f"{name}.log" in logs:
        name = f'<a href="logs/{name}.log">{name}</a>'
    return (
        name,
        f"<code>{_text(life.id)}</code>",
        _text(life.zone),
        f"<code>{_text(life.address)}</code>",
        *(
            duration(life.seconds(phase) or None)
            for phase in ("boot", "push", "search")
        ),
        f"{life.tested:,}" if life.is_counted else "-",
        short(life.rate) if life.rate else "-",
        _text(life.kernel),
        duration(life.stop),
        _text(life.end),
    )


def _remarks(line: Timeline) -> str:
    """List what went on besides the usual."""
    told = [event for event in line.events if event.kind in TOLD]
    if not told:
        return ""
    rows = [
        (
            f"{event.time - line.began:.2f} s",
            f"Instance{event.index}" if event.index is not None else "",
            event.kind.replace(".", " ").replace("_", " "),
            _text(_said(event)),
        )
        for event in told[:REMARKS]
    ]
    more = len(told) - len(rows)
    rest = f"<p>and {more} more, in events.jsonl</p>" if more else ""
    head = ("when", "who", "what", "")
    table = _table(head, rows, numbers=(0,)) + rest
    return _section("What went on besides", table, folded=len(rows) > FOLDED)


def _said(event: Event) -> object:
    fields = event.fields
    names = ("reason", "text", "state", "start")
    return next((fields[name] for name in names if fields.get(name) is not None), "")


def _foot(line: Timeline) -> str:
    files = ["events.jsonl", *(["result.json"] if line.result else [])]
    links = " · ".join(f'<a href="{name}">{name}</a>' for name in files)
    return f"<footer><p>{links}</p><p>CND {_text(cnd.__version__)}</p></footer>"


# --- HTML


def _section(title: str, content: str, *, folded: bool = False) -> str:
    if folded:
        return (
            f"<section><details><summary><h2>{title}</h2></summary>{content}"
            "</details></section>"
        )
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    kind: str = "",
) -> str:
    """Return a table of HTML cells; the columns `numbers` are set to the right."""
    right = frozenset(numbers)

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in right else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    table = f'<table class="{kind}">{top}<tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

CSS = """
:root {
  --page: #f4f5f7; --card: #ffffff; --ink: #1c2530; --muted: #5d6875;
  --faint: #dfe3e8; --green: #15805f; --gold: #9a6a00; --red: #b92b48;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11161c; --card: #1a2129; --ink: #e8ecf1; --muted: #9aa7b5;
    --faint: #303a46; --green: #3ecf9f; --gold: #f0bd4e; --red: #ff7d92;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px; }
h1, h2, p { margin: 0; }
h1 { font-size: clamp(26px, 4.5vw, 42px); line-height: 1.15; font-weight: 650;
  letter-spacing: -0.02em; margin: 2px 0 8px; }
h1 em { font-style: normal; color: var(--gold); font-variant-numeric: tabular-nums; }
h2 { font-size: 16px; font-weight: 650; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 3px; }
code, .hash { font-family: ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; font-size: 0.92em; }
header { margin-bottom: 22px; }
header p, .figures p, footer, small { color: var(--muted); }
header .hash { overflow-wrap: anywhere; margin-bottom: 6px; }
header .hash b { color: var(--gold); }
header .why { margin-bottom: 6px; overflow-wrap: anywhere; }
header.incomplete h1, header.aborted h1 { color: var(--red); }
.run { font-size: 13px; letter-spacing: 0.02em; }
section, figure { background: var(--card); border: 1px solid var(--faint);
  border-radius: 12px; padding: 18px 20px; margin: 0 0 16px; }
.tiles, .figures { background: none; border: 0; padding: 0; display: grid; gap: 16px; }
.tiles { grid-template-columns: repeat(6, 1fr); }
.tiles div { background: var(--card); border: 1px solid var(--faint);
  border-radius: 12px; padding: 14px 16px; min-width: 0; }
.tiles h2 { font-size: 13px; font-weight: 500; color: var(--muted); }
.tiles p { font-size: 22px; font-weight: 650; letter-spacing: -0.01em;
  white-space: nowrap; }
.tiles small { display: block; line-height: 1.3; font-size: 12px; }
.figures { grid-template-columns: repeat(2, minmax(0, 1fr)); align-items: stretch; }
figure { margin: 0; min-width: 0; }
figure.full { grid-column: 1 / -1; }
figcaption { margin-bottom: 12px; }
figcaption p { font-size: 13.5px; }
.files { font-size: 12px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif !important; }
.narrow { display: none; }
.scroll { overflow-x: auto; margin-top: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 500; color: var(--muted); white-space: nowrap; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--faint);
  vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
td { font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; white-space: nowrap; }
td:first-child, .nowrap td { white-space: nowrap; }
.facts td:first-child { white-space: normal; min-width: 8.5em; }
.facts td:last-child { overflow-wrap: anywhere; width: 100%; }
.k { color: var(--muted); }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 8px; }
summary { cursor: pointer; } summary h2 { display: inline; }
footer { display: flex; justify-content: space-between; font-size: 13px;
  padding: 4px 4px 20px; }
@media (max-width: 760px) {
  main { padding: 20px 12px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 10px; }
  .figures { grid-template-columns: minmax(0, 1fr); }
  section, figure { padding: 14px; } figure { padding: 14px 6px; }
  figure.full { padding: 14px 4px; } figcaption { padding: 0 8px; }
  .tiles { padding: 0; } .figures { padding: 0; }
  th, td { padding-right: 8px; } table { font-size: 13px; }
  .wide { display: none; } .narrow { display: block; }
}
@media print { body { background: none; } section, figure { break-inside: avoid; } }
"""
