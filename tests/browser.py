"""Headless Chromium for tests, driven over a pair of pipes by its own protocol (Chrome DevTools Protocol): needs no package."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe")


_AXE = (os.environ.get("AXE_CORE", ""), Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js")
AXE = next((Path(path) for path in _AXE if path and Path(path).is_file()), None)
"""npm's axe-core, where it is installed (`npm install axe-core` in the checkout), or named by AXE_CORE."""


class Browser:
    """One page in one browser, whose profile lies in `folder`."""

    def __init__(self, folder: Path, *, width: int, height: int, timeout: float = 120):
        to_browser, commands = os.pipe()
        replies, from_browser = os.pipe()
        # The protocol reads descriptor 3 and writes 4, which only a shell sets up without code between fork and exec.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        argv = ["bash", "-c", shell, "bash", str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        quiet = subprocess.DEVNULL
        home = os.environ | {"HOME": str(folder)}
        self._process = subprocess.Popen(argv, pass_fds=(to_browser, from_browser), stdout=quiet, stderr=quiet, env=home)
        os.close(to_browser)
        os.close(from_browser)
        self._commands, self._replies, self._timeout = commands, replies, timeout
        self._numbers, self._buffer, self._session = itertools.count(1), b"", None
        self.events: list[dict] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._commands)  # the browser ends when its pipe does
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies)

    def send(self, method: str, **parameters) -> dict:
        """One command and its reply; what the browser says in between is kept in `events`."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message}"
                return message["result"]
            self.events.append(message)

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], self._timeout)
            data = os.read(self._replies, 1 << 20) if ready else b""
            assert data, "the browser does not answer"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def run(self, script: str):
        """Return the value of a JavaScript expression, or of its promise."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str):
        """Wait until the expression is true."""
        end = time.monotonic() + self._timeout
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def open(self, address: str):
        self.send("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def resize(self, width: int, height: int, *, dark: bool = False, scale: float = 1):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def choose_file(self, selector: str, path: Path):
        """Choose a file, as a person does in the dialogue of a field for files."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drag(self, start: tuple[float, float], end: tuple[float, float]):
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str):
        codes = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Space": 32}
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def find_barriers(self) -> list[str]:
        """Return the barriers that axe-core finds for users of a keyboard, a screen reader or strong contrast: rule and place."""
        assert AXE is not None
        self.run(f"(() => {{ {AXE.read_text()} }})()")
        found = self.run("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
        return [f"{rule['id']}: {', '.join(node['html'][:100] for node in rule['nodes'])}" for rule in found]

    def screenshot(self) -> bytes:
        """PNG of what is in view."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
