"""The pages in a real browser: they draw, search, hover and fit a phone, without an error and without a request to anywhere."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_release import HOSTILE, N_INTERESTS

from lurm.report.explained_user import explain_user
from lurm.report.explanation_page import explanation_page
from lurm.report.interest_counts import InterestCounts
from lurm.report.interest_names import InterestNames
from lurm.report.page import write_page
from lurm.report.release_page import look, release_page

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 780}
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run", "--window-size=1280,900")
# Pixels of a point of a trace, in the window.
PLACE = """const box = document.getElementById('map'), l = box._fullLayout, t = box.data[arguments[0]], i = arguments[1];
const r = box.getBoundingClientRect();
return [r.left + l.xaxis._offset + l.xaxis.d2p(t.x[i]), r.top + l.yaxis._offset + l.yaxis.d2p(t.y[i])];"""
# What WebGL is told for the map: the points of each picture from one clearing to the next, the indices of the points of a picture that does
# not take all, and the bytes of points that were sent. And `slow`: milliseconds that every frame is made to take.
WATCH = """window.pictures = [{points: 0, indices: []}]; window.sent = 0; window.slow = 0;
const busy = () => { for (const end = performance.now() + window.slow; performance.now() < end;); requestAnimationFrame(busy); };
requestAnimationFrame(busy);
const gl = WebGLRenderingContext.prototype, last = () => window.pictures[window.pictures.length - 1];
const watch = (name, told) => { const real = gl[name]; gl[name] = function (...given) {
  if (this.canvas.classList.contains('gl-canvas-context')) told(...given);
  return real.apply(this, given); }; };
watch('clear', () => { if (last().points) window.pictures.push({points: 0, indices: []}); });
watch('drawArrays', (mode, first, count) => { last().points += count; });
watch('drawElements', (mode, count) => { last().points += count; });
watch('bufferData', (target, data) => { if (target === gl.ARRAY_BUFFER) window.sent += data.byteLength || 0;
  else last().indices.push(Array.from(new Uint32Array(data.buffer, data.byteOffset, data.byteLength / 4))); });"""
SAMPLES = "return document.querySelector('#map .gl-canvas-context').getContext('webgl').getContextAttributes().antialias"
MANY = 100_000


def chromium() -> tuple[str, str]:
    """Browser and driver; skips where there are none, unless CI must have them."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if all(found):
        return found
    sentence = "Expected chromium and chromedriver, found none; install them (Debian: apt-get install chromium chromium-driver)."
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def pages(released, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_page(str(folder / "report.html"), release_page(look(released, min_users=5)))
    write_page(str(folder / "user.html"), explanation_page(explain_user(released, "u000", 5), 5))
    return folder


@pytest.fixture(params=["desktop", "phone"])
def width(request) -> str:
    return request.param


@pytest.fixture
def browser(width, tmp_path) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, driver = chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if width == "phone":
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": {**PHONE, "pixelRatio": 2.0, "touch": True}})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def open_page(browser, path: Path) -> None:
    browser.get(path.as_uri())
    wait_for(lambda: browser.execute_script(
        "const map = document.getElementById('map'); return document.readyState === 'complete' && (!map || map.dataset.drawn === 'yes')"),
        "the page to be drawn")


def complaints(browser) -> list[str]:
    """What the console says, but for the notes of a software renderer on its own speed."""
    return [entry["message"] for entry in browser.get_log("browser") if "GL Driver Message" not in entry["message"]]


def requests(browser, page: Path) -> list[str]:
    """Addresses that a page has asked for since this was called last; the browser's own pages are not counted."""
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in told if message["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"] for request in sent if request["documentURL"].startswith(page.as_uri())]


def point_at(browser, trace: int, point: int) -> str:
    """Move to a point of the map (tap it on a phone); returns what the card says."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    browser.execute_script("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y = browser.execute_script(PLACE, trace, point)
    mouse = ActionBuilder(browser)
    mouse.pointer_action.move_to_location(3, 3)
    mouse.pointer_action.move_to_location(int(x) - 4, int(y))
    mouse.pointer_action.move_to_location(round(x), round(y))
    mouse.pointer_action.click()
    mouse.perform()
    ActionChains(browser).pause(0.1).perform()
    return wait_for(lambda: browser.execute_script("const c = document.getElementById('map-card'); return c.hidden ? '' : c.innerText"), "the card")


def type_into_search(browser, words: str) -> str:
    field = browser.find_element("id", "map-search")
    field.clear()
    field.send_keys(words)
    browser.execute_script("arguments[0].dispatchEvent(new Event('input'))", field)
    time.sleep(0.4)
    return browser.execute_script("return document.getElementById('map-found').textContent")


def test_the_report(browser, pages, width):
    from selenium.webdriver.common.by import By

    open_page(browser, pages / "report.html")
    drawn = browser.execute_script("const d = document.getElementById('map').data; return d.map((t) => [t.type, t.x.length])")
    assert drawn == [["scattergl", 1], ["scattergl", N_INTERESTS - 1], ["scattergl", 0]]
    assert "WebGL is not supported" not in browser.find_element(By.TAG_NAME, "body").text
    colours = browser.execute_async_script("""const done = arguments[0], box = document.getElementById('map');
        Plotly.toImage(box, {format: 'png', width: 300, height: 200}).then((address) => { const image = new Image(); image.onload = () => {
          const c = document.createElement('canvas'); c.width = 300; c.height = 200; const g = c.getContext('2d'); g.drawImage(image, 0, 0);
          const seen = new Set(), p = g.getImageData(0, 0, 300, 200).data; for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 200)
          seen.add(p[i] + ',' + p[i + 1] + ',' + p[i + 2]); done(seen.size); }; image.src = address; });""")
    assert colours > 3, "points of several colours are really painted"

    # Hover, or tap: a title that tries to be markup is text.
    names = browser.execute_script("return JSON.parse(document.getElementById('map-data').textContent).names")
    evil = next(place for place, name in enumerate(names) if "evil" in name)
    card = point_at(browser, 1, evil)
    assert HOSTILE[0] in card and "users" in card and names[evil] in card
    assert browser.execute_script("return document.getElementById('map-card').querySelectorAll('script, img').length") == 0
    assert "Fewer than 5 users" in point_at(browser, 0, 0)

    # Search.
    assert type_into_search(browser, "EVIL lamp") == "1 interest"
    assert [button.text.split(" (")[0] for button in browser.find_elements(By.CSS_SELECTOR, "#map-hits button")] == [names[evil]]
    opacity = browser.execute_script("return Array.from(document.getElementById('map').data[1].marker.opacity)")
    assert [place for place, value in enumerate(opacity) if value > 0.5] == [evil]
    browser.find_element(By.CSS_SELECTOR, "#map-hits button").click()
    wait_for(lambda: HOSTILE[0] in browser.execute_script("return document.getElementById('map-card').innerText"), "the card of the found interest")
    assert type_into_search(browser, "shiny") == f"{N_INTERESTS - 2} interests"
    assert type_into_search(browser, "zugspitze") == "no interest with that word"
    assert type_into_search(browser, "<script>") == "1 interest"
    type_into_search(browser, "")

    # Colours, and one anchor alone.
    def shown() -> list:
        return browser.execute_script("const m = document.getElementById('map').data[1].marker; return [m.cmax, new Set(m.color).size]")

    by_anchor = shown()
    browser.find_element(By.CSS_SELECTOR, "[data-mode=growth]").click()
    assert shown()[0] == 2 and shown()[1] > 3 and browser.find_element(By.CSS_SELECTOR, ".scale").is_displayed()
    browser.find_element(By.CSS_SELECTOR, "[data-mode=anchor]").click()
    assert shown() == by_anchor and not browser.find_element(By.CSS_SELECTOR, ".scale").is_displayed()
    anchors = browser.execute_script("return Array.from(document.getElementById('map').data[1].marker.color)")
    browser.find_element(By.CSS_SELECTOR, f".legend [data-anchor='{int(anchors[0])}']").click()
    opacity = browser.execute_script("return Array.from(document.getElementById('map').data[1].marker.opacity)")
    assert [value > 0.5 for value in opacity] == [anchor == anchors[0] for anchor in anchors]

    # Zoom and back.
    def span() -> float:
        return browser.execute_script("const r = document.getElementById('map').layout.xaxis.range; return r[1] - r[0]")

    browser.execute_script("document.getElementById('map-whole').click()")
    whole = wait_for(span, "a range")
    browser.execute_script("document.getElementById('map-in').click()")
    wait_for(lambda: span() < 0.7 * whole, "the map to come closer")
    browser.execute_script("document.getElementById('map-whole').click()")
    wait_for(lambda: abs(span() - whole) < 1e-6 * whole, "the whole map")

    fits(browser)
    assert complaints(browser) == []
    asked = requests(browser, pages / "report.html")
    assert asked[0] == (pages / "report.html").as_uri() and all(address.startswith(("data:", "blob:")) for address in asked[1:])


def test_the_page_of_a_user(browser, pages):
    open_page(browser, pages / "user.html")
    assert "u000" in browser.title
    fits(browser)
    assert complaints(browser) == []
    assert requests(browser, pages / "user.html") == [(pages / "user.html").as_uri()]


def test_dark_where_the_reader_wants_it_dark(browser, pages):
    open_page(browser, pages / "report.html")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    wait_for(lambda: browser.execute_script(ground) != light, "the dark page")
    assert complaints(browser) == []


@pytest.mark.parametrize("width", ["desktop"], indirect=True)
def test_a_page_that_asks_and_complains_would_be_noticed(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><body style='width:5000px'><img src='http://127.0.0.1:9/x.png'><script>undefinedFunction()</script>")
    browser.get(page.as_uri())
    wait_for(lambda: complaints(browser), "a complaint")
    assert "http://127.0.0.1:9/x.png" in requests(browser, page)
    with pytest.raises(AssertionError):
        fits(browser)


def fits(browser) -> None:
    """Nothing is wider than the window, so nothing has to be scrolled to the side."""
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= window


def write_map(released, page: Path, n: int, rare: int) -> Path:
    """A report of n interests in a disc, some too rare to be shown, and a lonely lighthouse at the edge of the map, the rarest that is shown."""
    generator, view = np.random.default_rng(8), look(released, min_users=5)
    angle, radius = generator.uniform(0, 2 * np.pi, n), np.sqrt(generator.uniform(0, 1, n))
    layout = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    layout[7] = 1.5, 0
    users = generator.integers(6, 1_000, n)
    users[generator.permutation(n)[:rare]] = 2
    users[7] = 5
    names = InterestNames([["lighthouse"] if interest == 7 else [f"w{interest % 997}"] for interest in range(n)], [["A title"]] * n)
    view = dataclasses.replace(
        view, counts=InterestCounts(users, users * 3, users, users, 10**6, ("2021-10", "2021-12"), ("2021-07", "2021-09")), names=names,
        alpha=generator.dirichlet(np.ones(view.alpha.shape[1]), n).astype(np.float32), layout=layout.astype(np.float32), method="pca")
    write_page(str(page), release_page(view))
    return page


def pictures(browser) -> list[int]:
    """The points in each picture of the map since `forget`."""
    return browser.execute_script("return window.pictures.map((p) => p.points).filter(Boolean)")


def forget(browser) -> None:
    browser.execute_script("window.pictures = [{points: 0, indices: []}]; window.sent = 0")


def rest(browser, points: int = MANY) -> None:
    """Wait until the last picture holds every point; a ring is one more."""
    wait_for(lambda: pictures(browser)[-1:] == [points], "all points to be drawn again")


def wheel(browser, notches: int) -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.wheel_input import WheelInput

    x, y = middle(browser)
    actions = ActionBuilder(browser, wheel=WheelInput("wheel"), duration=16)
    for _ in range(notches):
        actions.wheel_action.scroll(x, y, 0, -20, 16)
    actions.perform()


def drag(browser, across: int) -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    x, y = middle(browser)
    mouse = ActionBuilder(browser, duration=16)
    mouse.pointer_action.move_to_location(x, y)
    mouse.pointer_action.pointer_down()
    for step in range(1, 6):
        mouse.pointer_action.move_to_location(x + across * step // 5, y)
    mouse.pointer_action.pointer_up()
    mouse.perform()


def middle(browser) -> tuple[int, int]:
    """Of the map, which is brought into the window."""
    return tuple(browser.execute_script("""const box = document.getElementById('map');
        box.scrollIntoView({block: 'center', behavior: 'instant'});
        const r = box.getBoundingClientRect(); return [Math.round(r.left + r.width / 2), Math.round(r.top + r.height / 2)];"""))


@pytest.mark.parametrize("width", ["desktop"], indirect=True)
def test_a_large_map_draws_some_points_while_it_moves_and_all_when_it_rests(browser, released, tmp_path):
    def span() -> tuple[float, float]:
        return tuple(browser.execute_script("return document.getElementById('map').layout.xaxis.range"))

    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    open_page(browser, write_map(released, tmp_path / "large.html", MANY, rare=MANY // 10))
    assert pictures(browser)[-1] == MANY and browser.execute_script(SAMPLES) is False
    traces = browser.execute_script("return document.getElementById('map').data.map((t) => t.x.length)")
    lonely = traces[1] - 1  # the fewest users of those that are shown
    assert sum(traces) == MANY and traces[0] == MANY // 10 and traces[2] == 0

    # Each movement begins with a picture of some points, ends with one of all, and sends no point again. Where frames are slow, some are fewer.
    def moved(move: Callable[[], object]) -> tuple[int, float, float]:
        """Points of the first picture, how much wider the view is after, and how far its left edge went, both as shares of what was seen."""
        left, right = span()
        forget(browser)
        move()
        rest(browser)
        seen, sent, (new_left, new_right) = pictures(browser), browser.execute_script("return window.sent"), span()
        assert all(0 < points <= 8_000 or points == MANY for points in seen) and seen[0] < seen[-1] == MANY and sent == 0, (seen, sent)
        return seen[0], (new_right - new_left) / (right - left), (new_left - left) / (right - left)

    browser.execute_script("window.slow = 40")
    most, wider, _ = moved(lambda: wheel(browser, 3))
    assert most == 8_000 and wider == pytest.approx(np.exp(-3 * 20 / 200), rel=0.01)
    _, wider, shifted = moved(lambda: drag(browser, 160))
    assert wider == pytest.approx(1) and -0.25 < shifted < -0.1
    browser.execute_script("window.slow = 120")  # a frame takes longer than what counts as rest
    fewest, wider, _ = moved(lambda: browser.execute_script("document.getElementById('map-out').click()"))
    assert 2_000 <= fewest < 6_000 and wider == pytest.approx(1 / 0.6)
    browser.execute_script("window.slow = 0")

    # What is drawn first is what most people use, and nothing that is not in the view.
    first = browser.execute_script("return window.pictures.find((p) => p.indices.length).indices.sort((a, b) => b.length - a.length)[0]")
    assert len(first) > 1_000 and max(first) < MANY / 5 and lonely not in first and first == sorted(first)

    # At rest hover, search and colours are those of any map; what is found is drawn in every picture.
    forget(browser)
    browser.find_element("id", "map-whole").click()
    rest(browser)
    assert "lighthouse" in point_at(browser, 1, lonely)
    forget(browser)
    assert type_into_search(browser, "lighthouse") == "1 interest"
    rest(browser, MANY + 1)
    assert set(pictures(browser)) == {MANY + 1} and browser.execute_script("return window.sent") > 8 * MANY
    forget(browser)
    drag(browser, -40)
    rest(browser, MANY + 1)
    taken = browser.execute_script("""return window.pictures.filter((p) => p.indices.length)
        .map((p) => p.indices.sort((a, b) => b.length - a.length)[0]).map((some) => [some.length, some[some.length - 1]])""")
    assert taken and all(n > 1_000 and last == lonely for n, last in taken), taken
    browser.find_element("css selector", "#map-hits button").click()
    wait_for(lambda: "lighthouse" in browser.execute_script("return document.getElementById('map-card').innerText"), "the card")
    assert type_into_search(browser, "") == ""
    forget(browser)
    browser.find_element("css selector", "[data-mode=growth]").click()
    rest(browser)

    # New colours twice in the middle of a movement are sent twice, and every point is there once.
    once = browser.execute_script("return window.sent")
    forget(browser)
    browser.execute_script("for (const name of ['#map-in', '[data-mode=anchor]', '[data-mode=growth]']) document.querySelector(name).click()")
    rest(browser)
    assert browser.execute_script("return window.sent") > 1.9 * once > 8 * MANY
    assert complaints(browser) == []


@pytest.mark.parametrize("width", ["desktop"], indirect=True)
def test_up_to_five_thousand_points_are_left_to_plotly(browser, released, tmp_path):
    """Without rare interests, so that the named ones are the only ones Plotly knows of."""
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    by_hand = "return window.pictures.filter((p) => p.indices.length).map((p) => Math.max(...p.indices.map((some) => some.length)))"
    for n, fluid in ((5_001, True), (5_000, False)):
        open_page(browser, write_map(released, tmp_path / f"{n}.html", n, rare=0))
        forget(browser)
        drag(browser, 60)
        rest(browser, n)
        assert browser.execute_script(by_hand)[:1] == ([n] if fluid else []), "time for all, until frames turn out to be slow"
        assert browser.execute_script(SAMPLES) is not fluid and complaints(browser) == []
