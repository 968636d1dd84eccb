"""Drives headless Chromium over its DevTools pipe: JSON messages ending in a NUL byte, no package needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None)
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-default-browser-check", "--disable-extensions",
    "--mute-audio", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


class Chromium:
    """One browser with one page. `messages` collects console output and exceptions, `requests` every address asked for."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="auricle-chromium-", ignore_cleanup_errors=True)
        read_3, self.to = os.pipe()
        self.back, write_4 = os.pipe()
        # The browser reads commands from descriptor 3 and writes to 4; the pipes must not lie there before they are moved.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_3, write_4)]
        move = f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        command = [BINARY, *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", move, *command], pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (read_3, write_4, *ends):
            os.close(end)
        self.buffer, self.count = b"", 0
        self.session: str | None = None
        self.target: str | None = None

    def fresh(self, width: int = 1280, height: int = 900, dark: bool = False) -> Chromium:
        """A new page in place of the old one."""
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        old, self.session = self.target, None
        self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        if old:
            self.call("Target.closeTarget", targetId=old)
        self.session = self.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        return self

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)
        self.profile.cleanup()

    def call(self, method: str, /, **params: object) -> dict:
        """Send a command and wait for its answer."""
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": params, **({"sessionId": self.session} if self.session else {})}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(30)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, patience_s: float) -> dict:
        while b"\0" not in self.buffer:
            if not select.select([self.back], [], [], patience_s)[0]:
                raise TimeoutError("no answer from the browser")
            data = os.read(self.back, 1 << 20)
            if not data:
                raise RuntimeError("the browser is gone")
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict) -> None:
        method, params = message.get("method"), message.get("params", {})
        if message.get("sessionId") != self.session:
            return
        self.loaded |= method == "Page.loadEventFired"
        if method == "Runtime.consoleAPICalled":
            self.messages.append(f"{params['type']}: " + " ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.messages.append("exception: " + details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded":
            self.messages.append(f"{params['entry']['level']}: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, page: Path | str) -> None:
        """Open a page and wait until it has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=Path(page).resolve().as_uri() if isinstance(page, Path) else page)
        end = time.monotonic() + 30
        while not self.loaded:
            self._receive(end - time.monotonic())

    def js(self, expression: str) -> object:
        """Value of a JavaScript expression; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return result["result"].get("value")

    def until(self, expression: str, patience_s: float = 15) -> object:
        """Wait until an expression is true; returns its value. The page may change meanwhile."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            try:
                if value := self.js(expression):
                    return value
            except RuntimeError as error:
                if "navigated" not in str(error) and "context" not in str(error):
                    raise
            time.sleep(0.05)
        raise TimeoutError(f"never true: {expression}")

    def key(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click with the mouse at a share of an element's width and height."""
        box = self.js(f"(e=>{{e.scrollIntoView({{block:'center'}});let r=e.getBoundingClientRect();return [r.x,r.y,r.width,r.height]}})"
                      f"(document.querySelector({json.dumps(selector)}))")  # fmt: skip
        at = {"x": box[0] + box[2] * x, "y": box[1] + box[3] * y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of what is seen, or of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
