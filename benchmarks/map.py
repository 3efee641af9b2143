"""How fluid the map of interests is: milliseconds from frame to frame while it is zoomed and moved, in a browser without a graphics processor.

    .venv/bin/python benchmarks/map.py --points 10000 100000 [--seconds 3] [--window 1200x900] [--screenshots FOLDER]

`all` leaves every frame to Plotly, with all points and four samples a pixel; `now` is the map as it is delivered. The points are synthetic,
in clusters, and nearly half of them are too rare to be named. The browser gets 60 events a second of a wheel, then of a dragged mouse, and
tells when its frames began: 16.7 is the best there is. `drawn` is the median of the points in a picture, `whole` the milliseconds from the
last event until all points are painted again. Needs chromium and chromedriver.
"""

import argparse
import importlib.resources
import json
import math
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lurm.report.interest_counts import InterestCounts
from lurm.report.interest_names import InterestNames
from lurm.report.map_data import map_data
from lurm.report.page import FOLDER, data_block, document, join, tag, write_page

FLUID = "const fluid = many && webgl;"
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run")
# Frames, points of each picture, and the time of the last event; where it is probed, `whole` is taken when a picture of all points is ready.
WATCH = """window.frames_at = []; window.pictures = []; window.event_at = 0; window.whole = 0; window.told = window.probed = false;
const tick = (t) => { if (window.told) window.frames_at.push(t); requestAnimationFrame(tick); }; requestAnimationFrame(tick);
for (const name of ['wheel', 'mousemove']) addEventListener(name, () => { window.event_at = performance.now(); }, {capture: true, passive: true});
const gl = WebGLRenderingContext.prototype, clear = gl.clear, arrays = gl.drawArrays, elements = gl.drawElements;
const count = (n) => { window.pictures[window.pictures.length - 1] += n; };
gl.clear = function (mask) { window.pictures.push(0); return clear.call(this, mask); };
gl.drawElements = function (mode, n, type, offset) { count(n); return elements.call(this, mode, n, type, offset); };
gl.drawArrays = function (mode, first, n) { count(n); const answer = arrays.call(this, mode, first, n);
  if (window.probed) {
    this.readPixels(0, 0, 1, 1, this.RGBA, this.UNSIGNED_BYTE, new Uint8Array(4));  // comes back when all before it is painted
    window.whole = performance.now() - window.event_at;
  }
  return answer; };"""


def page_of(n: int, fluid: bool) -> str:
    """A page with nothing but the map of n synthetic interests."""
    generator = np.random.default_rng(3)
    centres = 6 * generator.standard_normal((max(2, n // 250), 2))
    layout = (centres[generator.integers(0, len(centres), n)] + 0.35 * generator.standard_normal((n, 2))).astype(np.float32)
    users = (generator.pareto(1.2, n) * 30 + 1).astype(np.int64)
    counts = InterestCounts(users, users * 4, users, users[::-1].copy(), 10**6, ("2021-10", "2021-12"), ("2021-07", "2021-09"))
    names = InterestNames([[f"w{word}"] for word in generator.integers(0, 60_000, n).tolist()], [["A title"]] * n)
    data = map_data(layout, counts, generator.dirichlet(np.full(10, 0.3), n).astype(np.float32), names, 20)
    parts = [tag("input", id="map-search"), *(tag("p", id=f"map-{name}") for name in ("found", "hits", "legend"))]
    buttons = [tag("button", name, id=f"map-{name}") for name in ("in", "out", "whole")]
    box = tag("div", *buttons, tag("div", id="map"), tag("div", id="map-card", hidden="hidden"), class_="map")
    script = (FOLDER / "map.js").read_text(encoding="utf-8")
    if script.count(FLUID) != 1:
        raise ValueError(f"Expected {FLUID!r} once in map.js, which this benchmark turns off, found it {script.count(FLUID)} times.")
    plotly = (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return document("map", join(tag("main", *parts, box), data_block("map-data", data)),
                    [plotly, script if fluid else script.replace(FLUID, "const fluid = false;")], compiles=True)


@contextmanager
def opened(page: Path, window: str) -> Iterator:
    """A browser that shows the map."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as profile:
        for option in (*OPTIONS, f"--window-size={window.replace('x', ',')}", f"--user-data-dir={profile}"):
            options.add_argument(option)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            browser.get(page.as_uri())
            while not browser.execute_script("return document.getElementById('map').dataset.drawn === 'yes'"):
                time.sleep(0.05)
            time.sleep(1)
            yield browser
        finally:
            browser.quit()


class Mouse:
    """Real events by the browser's own protocol, sent at a pace that does not wait for the answers."""

    def __init__(self, browser):
        import websocket  # selenium needs it

        address = browser.capabilities["goog:chromeOptions"]["debuggerAddress"]
        with urllib.request.urlopen(f"http://{address}/json", timeout=10) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=60)
        self._sent, self._answered = 0, 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        import websocket

        try:
            while "id" in json.loads(self._socket.recv()):
                self._answered += 1
        except (websocket.WebSocketException, OSError, ValueError):
            return  # the browser is closed

    def send(self, kind: str, x: float, y: float, **more: object) -> None:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": "Input.dispatchMouseEvent", "params": {"type": kind, "x": x, "y": y, **more}}))

    def answered(self) -> None:
        """Wait until the page has seen everything."""
        end = time.monotonic() + 60
        while self._answered < self._sent and time.monotonic() < end:
            time.sleep(0.005)


def paced(seconds: float) -> Iterator[float]:
    """Shares of the time that has passed, 60 a second."""
    started, place = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        yield passed / seconds
        place += 1
        time.sleep(max(0.0, started + place / 60 - time.monotonic()))


def move(browser, mouse: Mouse, how: str, seconds: float, probed: bool) -> tuple[list[float], float, float]:
    """Gaps between frames in milliseconds, the median of points in a picture, and milliseconds until all were there again."""
    left, top, wide, high = browser.execute_script(
        "const r = document.getElementById('map').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]")
    x, y = left + wide / 2, top + high / 2
    held = {"button": "left", "buttons": 1}
    mouse.send("mouseMoved", x, y)
    if how == "pan":
        mouse.send("mousePressed", x, y, clickCount=1, **held)
    mouse.answered()
    browser.execute_script("window.frames_at = []; window.pictures = [0]; window.whole = 0; window.told = true; window.probed = arguments[0]", probed)
    for share in paced(seconds):
        if how == "pan":
            mouse.send("mouseMoved", x + 300 * math.sin(2 * math.pi * share), y + 100 * math.sin(4 * math.pi * share), **held)
        else:
            mouse.send("mouseWheel", x, y, deltaX=0, deltaY=-12 if int(4 * share * seconds / 3) % 2 == 0 else 12)
    mouse.answered()
    frames, pictures = browser.execute_script("window.told = false; return [window.frames_at, window.pictures.filter(Boolean)]")
    time.sleep(1)
    whole = browser.execute_script("return window.whole")
    if how == "pan":
        mouse.send("mouseReleased", x, y, clickCount=1, **held)
        mouse.answered()
        time.sleep(1)
    return [later - earlier for earlier, later in zip(frames, frames[1:])], statistics.median(pictures), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=3, help="of each movement")
    parser.add_argument("--window", default="1200x900")
    parser.add_argument("--screenshots", help="a folder for one picture of each page at rest")
    options = parser.parse_args()
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        parser.error("Expected chromium and chromedriver, found none; install them (Debian: apt-get install chromium chromium-driver).")
    print(f"{'points':>8} {'':>4} {'movement':>9} {'median ms':>10} {'95 % ms':>8} {'frames/s':>9} {'drawn':>8} {'whole ms':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for n in options.points:
            for style in ("all", "now"):
                page = Path(folder) / f"{style}-{n}.html"
                write_page(str(page), page_of(n, style == "now"))
                with opened(page, options.window) as browser:
                    mouse = Mouse(browser)
                    for how in ("zoom", "pan"):
                        gaps, drawn, whole = move(browser, mouse, how, options.seconds, style == "now")
                        median, slow = np.percentile(gaps, [50, 95])
                        row = f"{n:>8,} {style:>4} {how:>9} {median:>10.1f} {slow:>8.1f} {1000 / np.mean(gaps):>9.1f} {drawn:>8,.0f}"
                        print(row + (f" {whole:>9.0f}" if style == "now" else ""), flush=True)
                    if options.screenshots:
                        browser.save_screenshot(str(Path(options.screenshots) / f"{page.stem}.png"))


if __name__ == "__main__":
    main()
