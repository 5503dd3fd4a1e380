"""A real browser without a window, driven by its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

PATIENCE = 300
"""Seconds after which a test gives up; far more than anything here takes."""


class Browser:
    """One page of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        """What went wrong on the page: uncaught errors, and what its policy blocked."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method of the protocol returns."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.errors.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def resize(self, width: int, height: int = 800) -> None:
        """Give the page another size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark pages."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def go(self, address: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        deadline, problem = time.monotonic() + PATIENCE, ""
        while time.monotonic() < deadline:
            try:
                if value := self.value(expression):
                    return value
            except AssertionError as error:  # the document is being replaced by the next one
                problem = str(error)
            time.sleep(0.05)
        raise AssertionError(f"waited in vain for {expression}; {problem} errors: {self.errors}")

    def press(self, key: str) -> None:
        """Press a key that writes one character."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def type(self, text: str) -> None:
        """Type into what has the focus; a line feed is the Enter key."""
        for part in text.splitlines(keepends=True):
            self.call("Input.insertText", text=part.rstrip("\n"))
            if part.endswith("\n"):
                for kind in ("keyDown", "keyUp"):
                    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
                    text_of = {"text": "\r"} if kind == "keyDown" else {}
                    self.call("Input.dispatchKeyEvent", type=kind, **enter, **text_of)


def program() -> str:
    """The browser's program; where there is none, the test fails in CI and is skipped elsewhere."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and "CI" in os.environ:
        pytest.fail("chromium is not installed", pytrace=False)
    return found or pytest.skip("chromium is not installed")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with a profile of its own in an empty folder."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
    process = subprocess.Popen(
        [program(), *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield from _pages(folder / "DevToolsActivePort", process)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _pages(told: Path, process: "subprocess.Popen[bytes]") -> Iterator[Browser]:
    import httpx

    deadline = time.monotonic() + PATIENCE
    while not told.is_file() or len(told.read_text().splitlines()) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "chromium does not start"
        time.sleep(0.1)
    port = told.read_text().splitlines()[0]
    pages: list[dict[str, Any]] = []
    while not pages:
        assert time.monotonic() < deadline, "chromium has no page"
        found = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False, timeout=PATIENCE).json()
        pages = [each for each in found if each["type"] == "page"]
    with connect(pages[0]["webSocketDebuggerUrl"], max_size=None, proxy=None, open_timeout=PATIENCE) as socket:
        yield Browser(socket)
