"""A headless Chromium, driven over its DevTools protocol: no driver to install, and its log is ours."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# What is on the page and in its fields, for the error of a wait that was in vain.
_SHOWN = (
    "document.body.innerText.slice(0, 2000) + JSON.stringify("
    "[...document.querySelectorAll('input,textarea')].map(e => [e.id || e.ariaLabel, e.value]))"
)


class Browser:
    """One page. Events that arrive while an answer is awaited are kept in `events`."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=None, proxy=None)
        self._number = 0
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        """Send a command and wait for its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            if told.get("id") == self._number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]
            self.events.append(told)

    def run(self, script: str):
        """The value of a JavaScript expression; promises are awaited."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"])
        return told["result"].get("value")

    def wait_for(self, script: str, within_s: float = 60.0):
        """Wait until an expression is true, and return it; what it speaks of may not be there yet."""
        end = time.monotonic() + within_s
        patient = f"(()=>{{try{{return {script}}}catch(error){{return false}}}})()"
        while not (value := self.run(patient)):
            if time.monotonic() > end:
                shown = self.run(_SHOWN)
                raise TimeoutError(f"{script}\nThe page shows: {shown}")
            time.sleep(0.1)
        return value

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def type_into(self, selector: str, text: str) -> None:
        """Replace a field's text, as a keyboard would."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        self.run(f"(e=>{{e.focus();e.select()}})(document.querySelector({json.dumps(selector)}))")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, once it is there, on top, and has come to rest."""
        middle = (
            f"(e=>{{e.scrollIntoView({{block:'center',behavior:'instant'}});"
            f"const r=e.getBoundingClientRect(),x=r.x+r.width/2,y=r.y+r.height/2;"
            f"return r.width>0&&e.contains(document.elementFromPoint(x,y))&&[x,y]}})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        box, before = self.wait_for(middle), None
        while box != before:
            time.sleep(0.2)
            box, before = self.wait_for(middle), box
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def requests(self) -> list[str]:
        """Every address that the page has asked for."""
        self.run("0")
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def errors(self) -> list[str]:
        """What the page's scripts threw, or wrote to the console as an error."""
        self.run("0")
        thrown = [
            str(event["params"]["exceptionDetails"])
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
        ]
        said = [
            str(event["params"]["args"])
            for event in self.events
            if event.get("method") == "Runtime.consoleAPICalled" and event["params"]["type"] == "error"
        ]
        return thrown + said

    def screenshot(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Path:
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        time.sleep(0.4)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


@contextmanager
def browser(profile: Path):
    """A Chromium of its own, with an empty profile in `profile`; ended on leaving."""
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    arguments += [f"--user-data-dir={profile}", "--autoplay-policy=no-user-gesture-required"]
    # Its own look-ups (updates, safe browsing) are not the page's.
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    process = subprocess.Popen(
        [str(CHROMIUM), *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    page = None
    try:
        told = profile / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (told.is_file() and told.read_text().count("\n")):
            assert process.poll() is None, "chromium ended"
            assert time.monotonic() < end, "chromium did not start"
            time.sleep(0.1)
        port = told.read_text().split("\n")[0]
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with ask.open(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [one for one in json.load(answer) if one["type"] == "page"]
        page = Browser(pages[0]["webSocketDebuggerUrl"])
        yield page
    finally:
        if page is not None:
            page._socket.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
