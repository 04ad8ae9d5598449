"""A headless Chromium driven over two pipes: loads a page, presses real keys, asks the page questions.

The DevTools protocol speaks JSON messages ended by a zero byte on file descriptors 3 (to the browser) and 4 (from it).
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
# Puts the pipes where the browser expects them, by way of numbers that cannot collide, and becomes the browser.
LAUNCH = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3)\n"
    "os.dup2(ends[1], 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "Backspace": 8, "Delete": 46, "Tab": 9, "Enter": 13,
        "Escape": 27, "a": 65, "r": 82}  # fmt: skip


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Page:
    """One page of a running browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number = b"", 0
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise TimeoutError("the browser did not answer")
            block = os.read(self._from, 1 << 16)
            if not block:
                raise ConnectionError("the browser ended")
            self._buffer += block
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def _call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            reply = self._read(deadline)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply["error"]
                result: dict[str, Any] = reply["result"]
                return result
            if reply.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(reply["params"]["exceptionDetails"]))
            if reply.get("method") == "Log.entryAdded" and reply["params"]["entry"]["level"] == "error":
                self.complaints.append(reply["params"]["entry"]["text"])

    def open(self, address: str) -> None:
        """Loads `address` and waits until all of it is there."""
        self._call("Page.navigate", {"url": address})
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({address!r})")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        reply = self._call(
            "Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True}
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Waits until the expression is true."""
        deadline = time.monotonic() + seconds
        while not self.ask(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {expression}; complaints: {self.complaints}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """A key, down and up, as the keyboard would send it."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self._call("Input.dispatchKeyEvent", {"type": "rawKeyDown", **code})
        if key == "Enter":  # buttons are pressed by the character
            self._call("Input.dispatchKeyEvent", {"type": "char", **code, "text": "\r"})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **code})

    def centre(self, selector: str) -> tuple[float, float]:
        """The middle of the first element that fits, scrolled into view, in pixels of the window."""
        x, y = self.ask(
            f"(() => {{ const found = document.querySelector({selector!r}); "
            "found.scrollIntoView({block: 'nearest'}); const at = found.getBoundingClientRect(); "
            "return [at.x + at.width / 2, at.y + at.height / 2]; })()"
        )
        return x, y

    def fingers(self, kind: str, points: Sequence[tuple[float, ...] | None]) -> None:
        """What a touch screen tells: where each finger is, None for one that is not there; of a `touchEnd` those that
        leave, or all of them."""
        touched = [{"x": point[0], "y": point[1], "id": n} for n, point in enumerate(points) if point]
        self._call("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, touch: bool = False) -> None:
        """Presses at `start`, moves to `end` in steps and lets go, with the mouse or a finger."""
        way = [tuple(a + (b - a) * n / 8 for a, b in zip(start, end, strict=True)) for n in range(9)]
        if touch:
            self.fingers("touchStart", way[:1])
            for point in way[1:]:
                self.fingers("touchMove", [point])
            self.fingers("touchEnd", [])
            return
        moves = [("mousePressed", way[0]), *(("mouseMoved", at) for at in way), ("mouseReleased", way[-1])]
        for kind, (x, y) in moves:
            event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self._call("Input.dispatchMouseEvent", event)

    def click(self, selector: str) -> None:
        """A click into the middle of the first element that fits."""
        at = self.centre(selector)
        self.drag(at, at)

    def drop_file(self, path: Path, at: tuple[float, float]) -> None:
        """Drags a file from outside the browser to a place in the window and lets go."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", {"type": kind, "x": at[0], "y": at[1], "data": data})

    def look(self, *, width: int, height: int, touch: bool = False) -> None:
        """The size of the window, and whether it is touched."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self._call("Emulation.setDeviceMetricsOverride", size)
        self._call("Emulation.setTouchEmulationEnabled", {"enabled": touch})


@contextmanager
def browser_page(profile: Path) -> Iterator[Page]:
    """A fresh browser with its profile in `profile`, ended afterwards."""
    path = find_browser()
    assert path is not None
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()
    words = [str(read_there), str(write_there), path, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        pass_fds=(read_there, write_there),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        yield Page(write_here, read_here)
    finally:
        os.close(write_here)
        os.close(read_here)
        process.terminate()
        process.wait(timeout=30)
