"""The page of a report in a browser: no overflow on a phone, no errors, no requests."""

from __future__ import annotations

import functools
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading

import pytest

from tests.support.run_folders import RunFolder, plan_of
from tff_dp.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]

# The page is looked at from another one, in a frame of a given width.
FRAME = """<!DOCTYPE html><link rel="icon" href="data:,">
<iframe id="f" style="width:{width}px;height:800px;border:0"></iframe>
<pre id="out"></pre>
<script>
const frame = document.getElementById("f");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const style = frame.contentWindow.getComputedStyle(page.body);
  const wide = [...page.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > {width} + 1).map(e => e.tagName);
  document.getElementById("out").textContent = JSON.stringify({{
    width: root.scrollWidth, wide: wide, color: style.color, background: style.backgroundColor,
    verdict: page.querySelector(".verdict").innerText.slice(0, 11),
    curves: page.querySelectorAll("svg polyline").length}});
}};
frame.src = "{page}";
</script>"""


class _Server:
    """Serves a folder on this machine, and remembers what was asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.asked: list[str] = []
        handler = functools.partial(self._handler(), directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def _handler(self):
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                asked.append(self.path)

        return Handler

    def __enter__(self) -> _Server:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def seen(folder: pathlib.Path, page: str, width: int, profile: pathlib.Path, *options: str):
    """Returns what a browser sees of a page, the errors of its console, and what it asked for."""
    (folder / "frame.html").write_text(FRAME.format(width=width, page=page))
    with _Server(folder) as server:
        done = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--enable-logging=stderr", "--v=0"),
                *("--virtual-time-budget=5000", f"--user-data-dir={profile}", *options),
                *("--dump-dom", f"http://127.0.0.1:{server.server.server_port}/frame.html"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    output = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    assert output, done.stderr[-2000:]
    assert output[1], done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(output[1].replace("&lt;", "<")), errors, server.asked


@pytest.fixture
def page(tmp_path, monkeypatch):
    long = plan_of(delta=1.2345678901234e-5)
    folder = RunFolder(tmp_path / ("run" * 40), long).install(monkeypatch)
    shutil.copytree(folder.path, tmp_path / "site")
    write_report(folder.path, tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.parametrize("width", [375, 1200])
def test_the_page_fits_has_no_errors_and_asks_for_nothing(page, tmp_path, width):
    found, errors, asked = seen(page, "report.html", width, tmp_path / "profile")
    assert found["width"] <= width
    assert found["wide"] == []
    assert found["verdict"].startswith("epsilon")
    assert found["curves"] >= 4
    assert errors == []
    assert {*asked} == {"/frame.html", "/report.html"}


def test_light_and_dark_differ(page, tmp_path):
    setting = "--blink-settings=preferredColorScheme="
    dark, light = (
        seen(page, "report.html", 375, tmp_path / f"profile{scheme}", f"{setting}{scheme}")[0]
        for scheme in (0, 1)
    )
    assert dark["background"] != light["background"]
    assert dark["color"] != light["color"]


def test_a_page_that_overflows_and_asks_is_found(page, tmp_path):
    report = (page / "report.html").read_text()
    wide = report.replace(
        "</body>", '<div style="width:900px">wide</div><img src="more.png"></body>'
    )
    (page / "wide.html").write_text(wide)
    found, errors, _ = seen(page, "wide.html", 375, tmp_path / "profile")
    assert found["width"] > 375
    assert "DIV" in found["wide"]
    assert errors  # its own policy forbids the image
    (page / "asks.html").write_text(wide.replace("img-src data:", "img-src *"))
    _, _, asked = seen(page, "asks.html", 375, tmp_path / "profile")
    assert "/more.png" in asked
