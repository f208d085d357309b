"""Chromium without a window, driven through its DevTools protocol over two pipes."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {
    "Enter": ("\r", 13),
    "Tab": ("", 9),
    "ArrowRight": ("", 39),
    "ArrowLeft": ("", 37),
    "End": ("", 35),
}


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page, until it is closed. `errors` are what its console and its security policy told."""

    def __init__(self, binary: str):
        self._home = tempfile.mkdtemp()
        (out_read, self._to), (self._from, in_write) = os.pipe(), os.pipe()

        def hand_over():  # it reads commands from 3 and answers on 4
            a, b = os.dup2(out_read, 103), os.dup2(in_write, 104)
            os.dup2(a, 3), os.dup2(b, 4)
            os.setsid()

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={self._home}", "--no-first-run"]
        self._process = subprocess.Popen(
            [binary, *options, "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(out_read), os.close(in_write)
        self._number, self._rest, self.errors, self._events = 0, b"", [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session = None

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self):
        deadline = time.monotonic() + 60
        while b"\0" not in self._rest:
            assert time.monotonic() < deadline, "Chromium does not answer"
            new = os.read(self._from, 1 << 16)
            assert new, "Chromium ended"
            self._rest += new
        line, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(line)
        kind, told = answer.get("method"), answer.get("params", {})
        self._events.append(kind)
        if kind == "Log.entryAdded":
            self.errors.append(told["entry"]["text"])
        elif kind == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"]["text"])
        elif kind == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {told['message']}")
        elif kind == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith(("data:", "file:")):
                self.errors.append(f"request: {url}")
        return answer

    def open(self, path: Path, width=1280, height=900, dark=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self._events.clear()
        self.call("Page.navigate", url=Path(path).absolute().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._read()
        return self

    def run(self, script):
        """The value of a JavaScript expression."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key, times=1):
        text, code = KEYS.get(key, (key, 0))
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                typed = {"text": text} if text and kind == "keyDown" else {}
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind, key=key, windowsVirtualKeyCode=code, **typed,
                )  # fmt: skip

    def screenshot(self, path: Path, whole=True):
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {
                "clip": {
                    "x": 0,
                    "y": 0,
                    "width": size["width"],
                    "height": size["height"],
                    "scale": 1,
                }
            }
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._to), os.close(self._from)
        shutil.rmtree(self._home, ignore_errors=True)
