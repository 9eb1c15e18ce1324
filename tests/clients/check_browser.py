"""The web page in headless Chromium: a fake microphone that plays a clip, files, downloads, keys, languages."""

import json
import os
import pathlib
import tempfile
import time

from checks import Checks, equal
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.chrome.service import Service

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream
--window-size=1280,900 --lang=en --autoplay-policy=no-user-gesture-required""".split()

checks = Checks()
out = pathlib.Path(checks.args.out)


class Page:
    """The page in a browser of its own, whose microphone hears `clip` once."""

    def __init__(self, clip, url=checks.url):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        for flag in FLAGS:
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={self.folder.name}/profile")
        options.add_argument(f"--use-file-for-fake-audio-capture={clip['spoken']}%noloop")
        options.add_experimental_option("prefs", {"download.default_directory": self.folder.name})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
        )
        self.driver.get(url + "/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()
        self.folder.cleanup()

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector="#transcript p > span"):
        return "".join(element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def state(self):
        return self.find("#status").get_attribute("data-state")

    def until(self, what, test, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if test():
                return
            time.sleep(0.05)
        raise AssertionError(
            f"not within {seconds} s: {what}; text {self.text()!r}, state {self.state()}, "
            f"error {self.text('#error')!r}, log {self.driver.get_log('browser')}"
        )

    def quiet(self):
        """No script failed and nothing was missing."""
        log = [line for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]
        equal(log, [])

    def shot(self, name):
        self.driver.save_screenshot(str(out / f"{name}.png"))

    def downloaded(self, kind):
        self.find(f"[data-download={kind}]").click()
        folder = pathlib.Path(self.folder.name)

        # Chromium takes the name with an empty file first, and moves the whole one there when it has it.
        def whole():
            return [file for file in folder.glob(f"*.{kind}") if file.stat().st_size]

        self.until(f"download {kind}", whole)
        return whole()[0].read_text(encoding="utf-8")


def microphone(clip):
    with Page(clip) as page:
        page.find("#microphone").click()
        page.until(
            "live text",
            lambda: page.driver.find_elements(By.CSS_SELECTOR, "#transcript .live") and page.text(),
        )
        page.shot("microphone-live")
        page.until("corrected text", lambda: page.driver.find_elements(By.CSS_SELECTOR, "#transcript .word"))
        page.find("#microphone").click()
        page.until("the end", lambda: page.state() == "idle")
        page.shot("microphone-corrected")
        equal(page.text(), clip["text"])
        assert page.find("#play").is_enabled()
        page.quiet()


def recording(clip, mode):
    with Page(clip) as page:
        page.find(f"input[value='{mode}'] + span").click()
        page.find("#file").send_keys(clip["flac"])
        page.until("the text", lambda: page.state() == "idle" and page.text())
        page.shot(f"file-{mode}")
        equal(
            page.text(), {"2pass": clip["two_pass"], "offline": clip["text"], "online": clip["online"]}[mode]
        )
        if mode == "2pass":
            equal(page.downloaded("txt"), clip["two_pass"] + "\n")
            words = json.loads(page.downloaded("json"))["segments"]
            equal([[w["start_ms"], w["end_ms"]] for s in words for w in s["words"]], clip["two_pass_times"])
            assert " --> " in page.downloaded("srt")
        page.quiet()


def keyboard(clip):
    """Without a pointer: the language by Tab and Enter, the microphone by its key."""
    with Page(clip) as page:
        page.find("#locale").send_keys(Keys.ENTER)
        equal(page.find("html").get_attribute("lang"), "zh")
        equal(page.find("#microphone-text").text, "开始录音")
        page.shot("chinese")
        page.find("body").send_keys("m")
        page.until("listening", lambda: page.state() == "listening")
        page.find("body").send_keys("m")
        page.until("the end", lambda: page.state() == "idle")
        canvas = page.find("#waveform")
        canvas.send_keys("+", Keys.ARROW_LEFT, "-")
        page.quiet()


def key_needed(clip):
    with Page(clip, checks.args.locked_url) as page:
        page.find("#file").send_keys(clip["flac"])
        page.until("refusal", lambda: page.text("#error"))
        page.find("summary").click()
        page.find("[name=key]").send_keys("sesame", Keys.TAB)
        page.until("models", lambda: page.text("[name=model]") not in ("", "–"))
        page.find("#file").send_keys(clip["flac"])
        page.until("the text", lambda: page.state() == "idle" and page.text())
        equal(page.text(), clip["two_pass"])


checks.run("microphone", microphone, checks.clip("short_08"))
for name, mode in (
    ("short_04", "2pass"),
    ("short_04", "offline"),
    ("short_07", "online"),
    ("long_01", "2pass"),
):
    checks.run(f"file {name} {mode}", recording, checks.clip(name), mode)
checks.run("keyboard and Chinese", keyboard, checks.clip("short_08"))
checks.run("API key", key_needed, checks.clip("short_04"))
checks.finish()
