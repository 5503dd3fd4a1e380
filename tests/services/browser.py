"""A page in a real browser: chromium without a window, driven over its DevTools protocol."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

PATIENCE = 60
"""Seconds that a page may take to come to a state."""


class Page:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._number = connection, 0
        self.errors: list[str] = []
        """What went wrong on the page: uncaught errors, and what its policy blocked."""
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    def _send(self, method: str, **values: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            found = json.loads(self._connection.recv(timeout=PATIENCE))
            if found.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(found["params"]["exceptionDetails"]))
            if found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.errors.append(found["params"]["entry"]["text"])
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def go(self, address: str) -> None:
        """Open an address."""
        self._send("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"{script} did not become true; errors: {self.errors}"
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        """Press a key."""
        text = key if len(key) == 1 else ""
        self._send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self._send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self._send("Input.insertText", text=text)

    def look(self, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Give the window a width in pixels, and a light or dark mode."""
        mobile = width < 700
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot")["data"]))


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """A page of a new browser.

    Args:
        folder: for the browser's profile.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is missing")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    command = [program, *options, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as browser:
        try:
            assert browser.stderr is not None
            listening = next(
                found for line in browser.stderr if (found := re.search(r"listening on ws://([\d.:]+)/", line))
            )
            with urllib.request.urlopen(f"http://{listening[1]}/json", timeout=PATIENCE) as answer:
                address = next(each for each in json.load(answer) if each["type"] == "page")["webSocketDebuggerUrl"]
            with connect(address, max_size=None, open_timeout=PATIENCE, compression=None) as connection:
                yield Page(connection)
        finally:
            browser.terminate()
            browser.wait(timeout=PATIENCE)
