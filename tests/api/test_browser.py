"""The page in a browser: a click, a result, a screenshot; skipped where there is no Chromium."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from api.app import create_app
from api.server import address, listen
from api.settings import Settings
from embedstore import Store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Record, Records

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver on the PATH"
)

EVIL = "<img src=x onerror=\"document.title='owned'\">"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """One Chromium for all tests here, without a network but this machine."""
    options = Options()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def listening() -> Iterator[Callable[..., str]]:
    """Serve on a free port, in a thread; takes what `Settings` takes and gives the URL."""
    with ExitStack() as stack:

        def start(**options: Any) -> str:
            found = stack.enter_context(listen("127.0.0.1", 0))
            server = uvicorn.Server(
                uvicorn.Config(create_app(Settings(**options)), log_config=None, ws="none")
            )
            thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return address(found)

        yield start


@pytest.fixture
def run(shared_probes: Path, tmp_path: Path, results_of: Callable[..., Any]) -> Path:
    """The probes as a run leaves them; a test row has an id that would be a script in HTML."""
    folder = tmp_path / "run"
    (folder / "predictions").mkdir(parents=True)
    shutil.copytree(shared_probes, folder / "probes")
    numbers = np.random.default_rng(0).normal(size=(30, 2)).tolist()
    sides = [["high" if at % 2 else "low", "high"] for at in range(30)]
    for name, rows in (("halflife", numbers), ("protein-side", sides)):
        with (folder / "predictions" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "true", "predicted"])
            writer.writerows([EVIL, *row] for row in rows)
    results = results_of({"intervals": {"halflife": [0.25, 0.75]}}, {"halflife": {}})
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def wait(browser: WebDriver, script: str) -> Any:
    """What a script gives once it gives something."""
    return WebDriverWait(browser, 60, poll_frequency=0.1).until(
        lambda driver: driver.execute_script(f"return {script}"), script
    )


def text(browser: WebDriver, id: str) -> str:
    return browser.find_element(By.ID, id).text


def open_page(browser: WebDriver, url: str) -> None:
    browser.get_log("browser")  # what an earlier test left
    browser.get(url)
    wait(browser, "document.body.dataset.ready")


def look_at(browser: WebDriver, sequence: str) -> None:
    box = browser.find_element(By.ID, "sequence")
    box.clear()
    box.send_keys(sequence)
    browser.find_element(By.ID, "look").click()
    wait(browser, "!document.getElementById('look').disabled")


def add_record(store: Store, id: str, sequence: str) -> None:
    records = Records([Record(id, sequence, "mrna")], pa.table({"n": np.arange(1.0)}), 0, [])
    for backbone in ("one-hot-mrna", "one-hot-protein"):
        prepared = prepare(BackboneConfig(backbone=backbone))
        build(store, records, prepared, BuildConfig(collection="evil", quiet=True))


def assert_nothing_was_run(browser: WebDriver) -> None:
    assert browser.title == "embedstore"
    assert browser.execute_script("return document.images.length") == 0
    assert browser.get_log("browser") == []


def test_a_sequence_is_looked_at_with_a_click(browser, listening, store, run, gene_of, tmp_path):
    add_record(store, EVIL, gene_of(80))
    open_page(browser, listening(store=store.folder, probes=run))
    assert "12 records · 2 collections · 2 recipes" in text(browser, "summary")
    coverage = text(browser, "coverage")
    assert "one-hot-protein" in coverage and "10 of 10" in coverage and "1 of 1" in coverage
    probes = text(browser, "probe-table")
    assert "0.500 (0.250 to 0.750)" in probes and "95 % bootstrap intervals" in probes
    assert browser.execute_script("return document.querySelectorAll('#plots .point').length") == 30
    assert browser.execute_script("return document.querySelectorAll('#plots .cell').length") == 4

    look_at(browser, gene_of(80))
    shown = text(browser, "views")
    for view in (gene_of(80), gene_of(80).replace("U", "T"), "M" + "A" * 81 + "KF"):
        assert view in shown.replace("\n", "")
    predictions = text(browser, "predictions")
    assert "halflife" in predictions and "log2(halflife)" in predictions and "%" in predictions
    neighbors = text(browser, "neighbors")
    assert neighbors.index(EVIL) < neighbors.index("genes")
    assert "1.0000" in neighbors and "Exact search over 12 embeddings." in neighbors
    assert_nothing_was_run(browser)

    before = neighbors
    Select(browser.find_element(By.ID, "metric")).select_by_value("l2")
    wait(browser, "document.querySelector('#neighbors thead')?.textContent.includes('Distance')")
    assert text(browser, "neighbors") != before

    for width, height in ((1200, 900), (390, 844)):
        size = {**PHONE, "width": width, "height": height, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width  # nothing to scroll sideways for
        picture = tmp_path / f"page-{width}.png"
        assert browser.save_screenshot(str(picture))
        assert picture.stat().st_size > 10_000
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert_nothing_was_run(browser)


def test_what_cannot_be_read_is_told_beside_what_can(browser, listening, store, run):
    open_page(browser, listening(store=store.folder, probes=run))
    look_at(browser, "AUGGC")
    assert "5 nt is not divisible by 3" in text(browser, "views")
    assert "ATGGC" in text(browser, "views")
    predictions = text(browser, "predictions")
    assert "log2(halflife)" in predictions and "not divisible by 3" in predictions
    look_at(browser, EVIL)
    assert "position" in text(browser, "status")
    assert not browser.find_element(By.ID, "answer").is_displayed()
    look_at(browser, "AUGGCUUAA")
    assert browser.find_element(By.ID, "answer").is_displayed()
    assert browser.execute_script("return document.images.length") == 0


def test_the_page_asks_for_a_key_and_keeps_it_in_the_tab(browser, listening, store):
    open_page(browser, listening(store=store.folder, api_keys=("secret",)))
    assert browser.find_element(By.ID, "key-form").is_displayed()
    assert "genes" not in text(browser, "coverage")
    for key, told in (("wrong", "does not know"), ("secret", "")):
        browser.find_element(By.ID, "key").send_keys(key)
        browser.execute_script("delete document.body.dataset.ready")
        browser.find_element(By.CSS_SELECTOR, "#key-form button").click()
        wait(browser, "document.body.dataset.ready")
        assert told in text(browser, "key-problem")
    assert not browser.find_element(By.ID, "key-form").is_displayed()
    assert "10 of 10" in text(browser, "coverage")
    kept = "return [Object.values(sessionStorage), localStorage.length, document.cookie]"
    assert browser.execute_script(kept) == [["secret"], 0, ""]
    browser.refresh()
    wait(browser, "document.body.dataset.ready")
    assert "10 of 10" in text(browser, "coverage")


def test_everything_can_be_named_and_reached_without_a_mouse(browser, listening, store, run):
    open_page(browser, listening(store=store.folder, probes=run))
    look_at(browser, "AUGGCUUAA")
    nameless = browser.execute_script(
        """const kinds = 'input, select, textarea, button, svg, section, pre';
        return [...document.querySelectorAll(kinds)]
        .filter((each) => !each.labels?.length && !each.textContent.trim()
          && !each.getAttribute('aria-label') && !each.getAttribute('aria-labelledby'))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert browser.execute_script("return document.querySelectorAll('svg[role=img]').length") >= 4
    tables = browser.execute_script(
        "return [...document.querySelectorAll('table')].map((each) =>"
        " [Boolean(each.caption), each.querySelectorAll('th[scope=col]').length > 1])"
    )
    assert len(tables) >= 4 and all(all(each) for each in tables)
    assert browser.find_element(By.ID, "look").get_attribute("type") == "submit"


def test_a_server_that_went_away_is_told(browser, listening, store):
    open_page(browser, listening(store=store.folder))
    browser.execute_script("window.fetch = () => Promise.reject(new TypeError('gone'))")
    look_at(browser, "AUG")
    assert "does not answer" in text(browser, "status")
