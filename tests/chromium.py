"""A headless Chromium, steered by its DevTools protocol over a WebSocket; nothing to install but the browser."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
    "--window-size=1280,960",
]


class Chromium:
    """A browser with an empty profile of its own."""

    def __init__(self, microphone: Path | None = None) -> None:
        """microphone: a wav that is heard there, again and again."""
        assert CHROMIUM is not None
        self._profile = Path(tempfile.mkdtemp(prefix="synctalk-chromium-"))
        heard = [] if microphone is None else [f"--use-file-for-fake-audio-capture={microphone}"]
        command = [CHROMIUM, *_FLAGS, *heard, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._port = self._find_port()

    def _find_port(self) -> int:
        note, end = self._profile / "DevToolsActivePort", time.monotonic() + 60
        while not (note.exists() and note.read_text().strip()):
            assert time.monotonic() < end and self._process.poll() is None, "Chromium does not start"
            time.sleep(0.05)
        return int(note.read_text().split()[0])

    def open(self, url: str, size: tuple[int, int] = (1280, 960), is_phone: bool = False) -> Tab:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            tab = Tab(json.load(answer)["webSocketDebuggerUrl"])
        tab.resize(size, is_phone)
        tab.go(url)
        return tab

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


class Tab:
    """One page."""

    def __init__(self, address: str) -> None:
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None, compression=None))
        self._ids = count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what the page complains about."""
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        base = json.dumps(url.split("#")[0])
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({base})")

    def eval(self, code: str) -> Any:
        """What an expression gives, awaited, as JSON."""
        result = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not self.eval(condition):
            assert time.monotonic() < end, (
                f"not within {seconds} s: {condition}; complaints: {self.complaints}"
            )
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, size: tuple[int, int], is_phone: bool = False) -> None:
        scale = 2 if is_phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=scale, mobile=is_phone,
        )  # fmt: skip

    def screenshot(self, path: Path, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self.call("Page.close")
        self._open.close()
