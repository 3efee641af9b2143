"""The pages in a real browser: they draw, search, hover and fit a phone, without an error and without a request to anywhere."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_release import HOSTILE, N_INTERESTS

from lurm.report.explained_user import explain_user
from lurm.report.explanation_page import explanation_page
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
