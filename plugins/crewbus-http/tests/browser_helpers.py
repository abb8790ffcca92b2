"""A browser without a window, and what a person does with it."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_helpers import PATIENCE


@contextmanager
def chromium():
    """Chromium, driven; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync", "no-proxy-server",
            "hide-scrollbars",
            f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield Person(chrome)
        finally:
            chrome.quit()


class Person:
    """Somebody in front of the page. The page changes as they look, so each look is one question to it."""

    def __init__(self, chrome):
        self.chrome = chrome

    def open(self, url):
        """Go there."""
        self.chrome.get(url)

    def ask(self, script, *arguments):
        """What this script answers in the page."""
        return self.chrome.execute_script(script, *arguments)

    def text(self, selector="main"):
        """The text of an element, with single spaces; empty if it is not there."""
        found = self.ask("const e = document.querySelector(arguments[0]); return e ? e.textContent : ''", selector)
        return " ".join(found.split())

    def wait(self, condition):
        """What the condition answers once it is true of the page; fails with what the page says if it never is."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        try:
            return WebDriverWait(self.chrome, PATIENCE, 0.05).until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f"the page says: {self.text()}; the browser: {self.complaints()}")

    def sees(self, text, selector="main"):
        """Wait until an element says this."""
        self.wait(lambda: text in self.text(selector))

    def click(self, selector):
        """Click an element."""
        from selenium.webdriver.common.by import By

        self.chrome.find_element(By.CSS_SELECTOR, selector).click()

    def follow(self, text):
        """Click the first link whose text begins with this."""
        from selenium.webdriver.common.by import By

        self.chrome.find_element(By.XPATH, f"//main//a[starts-with(normalize-space(), '{text}')]").click()

    def write(self, selector, text):
        """Replace what a field holds."""
        from selenium.webdriver.common.by import By

        field = self.chrome.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys):
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.chrome).send_keys(key).perform()

    def complaints(self):
        """What the console holds since this was last asked: errors, and violations of the policy."""
        return [entry for entry in self.chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        """The addresses of all requests since this was last asked."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def screenshot(person, path, width, scheme="light", tallest=2200):
    """A picture of the whole page, as far down as ``tallest`` pixels."""
    chrome = person.chrome
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    resize(person, width)
    resize(person, width, min(tallest, person.ask("return document.documentElement.scrollHeight")))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    chrome.save_screenshot(str(path))


def resize(person, width, height=300):
    """Give the window this size."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    person.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
