"""What the report costs with many interests: laying out, writing, opening, searching, hovering and moving in a browser.

    .venv/bin/python benchmarks/report.py --warehouse demo/warehouse --interests 100000

The page is that of a real release whose map is replaced by a synthetic one: clustered centroids, three words and a title each. `--layout
umap` lays it out by UMAP (minutes); without, principal components are taken. Times in the browser are those of a software renderer.
"""

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from lurm.report.chain import open_release
from lurm.report.interest_counts import InterestCounts
from lurm.report.interest_map import LAYOUTS, lay_out
from lurm.report.interest_names import InterestNames
from lurm.report.page import write_page
from lurm.report.release_page import look, release_page

FRAMES = """const done = arguments[0], box = document.getElementById('map'), r = box.layout.xaxis.range.slice(), w = r[1] - r[0], times = [];
let i = 0; const step = () => { const t = performance.now(); i += 1;
  Plotly.relayout(box, {'xaxis.range': [r[0] + w * i / 400, r[1] + w * i / 400]}).then(() => requestAnimationFrame(() => {
    times.push(performance.now() - t); i < 30 ? step() : done(times.sort((a, b) => a - b)[15]); })); }; step();"""
SEARCH = """const done = arguments[0], field = document.getElementById('map-search'), found = document.getElementById('map-found');
const t = performance.now(); field.value = 'w12';
new MutationObserver(() => requestAnimationFrame(() => done([performance.now() - t - 150, found.textContent]))).observe(found, {childList: true});
field.dispatchEvent(new Event('input'));"""


def synthetic(n: int, n_anchors: int, method: str) -> tuple[InterestCounts, InterestNames, np.ndarray, np.ndarray]:
    """Counts, names, alpha (n, M) and layout (n, 2) of n interests in clusters."""
    generator = np.random.default_rng(3)
    centres = generator.standard_normal((max(2, n // 250), 128)).astype(np.float32)
    centroids = centres[generator.integers(0, len(centres), n)] + 0.5 * generator.standard_normal((n, 128)).astype(np.float32)
    started = time.monotonic()
    layout = lay_out(centroids, method)
    print(f"layout by {method:<24}{time.monotonic() - started:>9.1f} s")
    users = (generator.pareto(1.2, n) * 30 + 1).astype(np.int64)
    counts = InterestCounts(users, users * 4, users, users[::-1].copy(), 10**6, ("2021-10", "2021-12"), ("2021-07", "2021-09"))
    alpha = generator.dirichlet(np.full(n_anchors, 0.3), n).astype(np.float32)
    words = [[f"w{word}" for word in row] for row in generator.integers(0, 60_000, (n, 3)).tolist()]
    titles = [[f"Title of an item that is about as long as titles are {place}"] for place in range(n)]
    return counts, InterestNames(words, titles), alpha, layout


def browse(page: Path) -> None:
    """Open the page and print what a reader waits for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as profile:
        for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking",
                       "--disable-component-update", "--disable-sync", "--window-size=1280,900", f"--user-data-dir={profile}"):
            options.add_argument(option)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            started = time.monotonic()
            browser.get(page.as_uri())
            while not browser.execute_script("return (document.getElementById('map') || {dataset: {}}).dataset.drawn === 'yes'"):
                time.sleep(0.05)
            print(f"open, until it is drawn{time.monotonic() - started:>18.1f} s")
            print(f"one step of moving (median of 30){browser.execute_async_script(FRAMES):>8.0f} ms")
            milliseconds, told = browser.execute_async_script(SEARCH)
            print(f"search and redraw{milliseconds:>24.0f} ms   {told}")
            heap = browser.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
            print(f"memory of the script{heap / 1e6:>21.0f} MB")
            browser.execute_script("document.getElementById('map').scrollIntoView({block: 'center'})")
            browser.save_screenshot(str(page.with_suffix(".png")))
        finally:
            browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--interests", type=int, default=100_000)
    parser.add_argument("--layout", choices=LAYOUTS, default="pca")
    parser.add_argument("--output", default="report-benchmark.html")
    options = parser.parse_args()
    started = time.monotonic()
    view = look(open_release(options.warehouse))
    print(f"look at the release{time.monotonic() - started:>22.1f} s   {view.released.table.n_users:,} users")
    counts, names, alpha, layout = synthetic(options.interests, view.alpha.shape[1], options.layout)
    view = dataclasses.replace(view, counts=counts, names=names, alpha=alpha, layout=layout, method=options.layout)
    started = time.monotonic()
    size = write_page(options.output, release_page(view))
    print(f"write the page{time.monotonic() - started:>27.1f} s   {size / 1e6:.1f} MB")
    browse(Path(options.output).resolve())


if __name__ == "__main__":
    main()
