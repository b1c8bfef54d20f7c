"""The page in headless Chromium, from dropping a video to comparing the answers; skipped without a browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aot_tiny.shapes.clips import write_clip

pytest.importorskip("gradio", reason="gradio is not installed; scripts/test_web.sh installs it")
pytest.importorskip("selenium", reason="selenium is not installed; scripts/test_web.sh installs it")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not BROWSER or not DRIVER:
    pytest.skip("chromium or chromedriver is missing; scripts/test_web.sh installs them", allow_module_level=True)

PATIENCE = 300  # seconds for one step on a busy machine
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address():
    """A page on the embedded model, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "aot_cli",
        "web",
        "--device",
        "cpu",
        "--port",
        str(port),
        "--max-new-tokens",
        "8",
    ]
    server = subprocess.Popen([*command, "--max-mb", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, line
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def open_page(address):
    """Opens the page in a browser of its own, as another person would."""
    opened = []

    def open_one() -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *camera):
            options.add_argument(flag)
        options.add_argument("--window-size=1400,1750")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        opened.append(browser)
        browser.get(address)
        wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#video input[type=file]"))
        return browser

    yield open_one
    for browser in opened:
        browser.quit()


def wait(browser, condition):
    return WebDriverWait(browser, PATIENCE).until(condition)


def text(browser, name: str) -> str:
    found = browser.find_elements(By.CSS_SELECTOR, f"#{name}")
    return found[0].text if found else ""


def told(browser) -> str:
    """The sentence in the status line; while it waits, Gradio shows the seconds there, which are none."""
    return text(browser, "status p[role=alert]")


def answer(browser, name: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, f"#{name} textarea").get_attribute("value")


def picture(browser) -> str | None:
    found = browser.find_elements(By.CSS_SELECTOR, "#kept img")
    return found[0].get_attribute("src") if found else None


def drop(browser, path) -> None:
    browser.find_element(By.CSS_SELECTOR, "#video input[type=file]").send_keys(str(path))


def ask(browser, question: str) -> None:
    field = browser.find_element(By.CSS_SELECTOR, "#question textarea, #question input")
    field.clear()
    field.send_keys(question)
    browser.find_element(By.CSS_SELECTOR, "#ask").click()


def kept(browser, name: str) -> tuple[int, int]:
    """(kept, all) visual tokens in a column's table."""
    found = re.search(r"(\d+) of (\d+) \(", text(browser, f"{name}-cost"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def press(browser, selector: str, words: str) -> None:
    """Clicks the button with these words once it is shown."""

    def pressed(browser) -> bool:
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        button = next((each for each in found if each.is_displayed() and words in each.text), None)
        if button is not None:
            button.click()
        return button is not None

    # the page draws its buttons anew meanwhile
    WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException]).until(pressed)


def test_drop_ask_compare_and_move_the_slider(open_page, tmp_path, request):
    write_clip(tmp_path / "clip.mp4", 900_002)
    browser = open_page()
    drop(browser, tmp_path / "clip.mp4")
    wait(browser, picture)
    assert "clip.mp4: 16.0 s" in text(browser, "about") and told(browser) == ""
    ask(browser, "How many objects appear in the video in total?")
    wait(browser, lambda b: kept(b, "reduced")[0])
    whole, reduced = kept(browser, "whole"), kept(browser, "reduced")
    assert whole[0] == whole[1] == reduced[1] and reduced[0] == int(0.1 * whole[1])
    for name in ("whole", "reduced"):
        assert answer(browser, f"{name}-answer") and "first token after" in text(browser, f"{name}-cost")
    path = request.config.getoption("--screenshot", default=None)
    if path:
        time.sleep(2)  # the video's poster frame
        browser.save_screenshot(path)

    before = picture(browser)
    slider = browser.find_element(By.CSS_SELECTOR, "#retention input[type=range]")
    slider.send_keys(Keys.ARROW_RIGHT * 15)
    wait(browser, lambda b: picture(b) not in (None, before))
    percent = int(slider.get_attribute("value"))
    assert percent > 10
    note = wait(browser, lambda b: text(b, "stale"))
    assert "10 %" in note and f"{percent} %" in note and kept(browser, "reduced") == reduced
    if path:
        browser.save_screenshot(path.replace(".png", "_stale.png"))
    ask(browser, "Is there a circle?")
    wait(browser, lambda b: kept(b, "reduced") == (percent * whole[1] // 100, whole[1]))
    wait(browser, lambda b: text(b, "stale") == "")
    browser.find_element(By.CSS_SELECTOR, "#video button[aria-label=Clear]").click()
    wait(browser, lambda b: text(b, "about") == "" and not picture(b))
    assert answer(browser, "reduced-answer") == "" == text(browser, "whole-cost"), "answers about no video"

    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    elsewhere = [name for name in loaded if not name.startswith((browser.current_url[:16], "data:", "blob:"))]
    assert loaded and not elsewhere, "the page must need no other server"


def test_a_bad_file_is_one_sentence_and_hurts_nobody_else(open_page, tmp_path):
    write_clip(tmp_path / "clip.mp4", 3)
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 1000)
    one, other = open_page(), open_page()
    drop(one, tmp_path / "clip.mp4")
    wait(one, picture)
    drop(other, tmp_path / "bad.mp4")
    sentence = wait(other, told)
    assert sentence.startswith("bad.mp4 is not a video") and "Traceback" not in sentence and "/" not in sentence
    ask(other, "What is there?")
    wait(other, lambda b: "no video yet" in told(b))  # not the video of the other person
    assert answer(other, "whole-answer") == ""
    ask(one, "What is there?")
    wait(one, lambda b: kept(b, "whole")[0])
    assert told(one) == ""


def test_a_camera_is_asked_about_while_it_goes_on(open_page, request):
    browser = open_page()
    press(browser, "button[role=tab]", "Live")
    press(browser, "#camera button", "Access")
    press(browser, "#camera button", "Record")

    def frames(browser) -> int:
        found = re.search(r"(\d+) frames?; at most \d+ visual tokens", text(browser, "live-about"))
        return int(found[1]) if found else 0

    wait(browser, lambda b: frames(b) >= 2)
    browser.find_element(By.CSS_SELECTOR, "#live-question textarea, #live-question input").send_keys("What moves?")
    press(browser, "#live-ask", "Ask")
    said = wait(browser, lambda b: answer(b, "live-answer"))
    assert re.match(r"\[0:\d\d:\d\d\] ", said) and told(browser) == ""
    seen = frames(browser)
    wait(browser, lambda b: frames(b) > seen)
    path = request.config.getoption("--screenshot", default=None)
    if path:
        browser.save_screenshot(path.replace(".png", "_live.png"))
