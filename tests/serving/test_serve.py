"""drsn-jax serve as a process, and its page in a real browser."""

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from browser import AXE, CHROMIUM, Browser
from networks import draw_variables, images
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config
from drsn_jax.weights.compact import write_compact

pytest.importorskip("uvicorn", reason="the page needs starlette and uvicorn: pip install 'drsn-jax[serve]'")
import uvicorn

from drsn_jax.serving import server
from drsn_jax.serving.app import make_app
from drsn_jax.serving.job_queue import JobQueue


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    config = load_config("default") | {"widths": (4, 6, 8), "num_blocks": 1, "unshuffle": 2}
    variables = draw_variables(make_generator(config), images(height=16, width=16))
    folder = tmp_path_factory.mktemp("serve") / "drawn"
    fields = {"ema_params": variables["params"], "generator_stats": variables.get("batch_stats", {})}
    write_compact(folder, fields=jax.tree.map(np.asarray, fields), config=config, step=1)
    return folder


@contextlib.contextmanager
def serving(model: Path, folder: Path):
    """Start the process; return it and its address. Temporary files go below `folder`."""
    argv = [sys.executable, "-m", "drsn_jax", "serve", f"--model={model}", "--port=0", "--tile=64", "--overlap=8", "--max-megapixels=9"]
    process = subprocess.Popen(argv, env=tiny.environment(TMPDIR=str(folder)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"at (http://127\.0\.0\.1:\d+) with the model drawn;", line)
        assert address, line + process.communicate()[1]
        yield process, address[1]
    finally:
        process.kill()
        process.communicate()


def test_it_restores_and_ends_at_once_with_code_0_even_in_the_middle_of_a_photograph(model, photograph, tmp_path):
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(photograph[:48, :64]).save(small, "PNG")
    Image.fromarray(photograph).resize((3000, 3000)).save(large, "JPEG")  # 2,916 tiles
    with serving(model, tmp_path) as (process, address):
        with urllib.request.urlopen(f"{address}/restore", data=small.getvalue(), timeout=200) as answer:
            assert Image.open(io.BytesIO(answer.read())).size == (64, 48)
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=200) as client:
            head = f"POST /restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(large.getvalue())}\r\n\r\n"
            client.sendall(head.encode() + large.getvalue())
            [private] = tmp_path.iterdir()
            end = time.monotonic() + 100
            while [path.stat().st_size for path in private.glob("*/upload")] != [len(large.getvalue())]:
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=100)
            answered = client.makefile("rb").readline()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert b" 200 " not in answered, "it was let finish"
    assert not list(tmp_path.iterdir()), "what people sent is still there"


def test_sigterm_ends_it_with_code_0(model, tmp_path):
    with serving(model, tmp_path) as (process, _):
        process.terminate()
        _, said = process.communicate(timeout=100)
    assert (process.returncode, said) == (0, "")
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_said_before_the_model_is_read(capsys):
    with server.open_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert main(["serve", "--model=/no/such/model", f"--port={port}"]) == 2
    assert f"Cannot serve on 127.0.0.1, port {port} (Address already in use); choose another --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--port=65536", "port 65536"),
        ("--host=192.0.2.1", "Cannot serve on 192.0.2.1"),
        ("--max-mb=0", "--max-mb=0 is not above 0"),
        ("--max-megapixels=nan", "--max-megapixels=nan"),
        ("--tile=63", "Tile size 63"),
    ],
)
def test_wrong_arguments_are_named(argument, says, model, capsys):
    assert main(["serve", f"--model={model}", "--port=0", argument]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "warned", "hosts"), [("localhost", False, ("localhost", "127.0.0.1", "[::1]")), ("0.0.0.0", True, ("*",))]
)
def test_only_this_machine_reaches_it_unless_it_is_asked_for(host, warned, hosts, model, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(server, "run_server", lambda make, listener, greeting: make(Path(), JobQueue()))
    monkeypatch.setattr("drsn_jax.serving.app.make_app", lambda make_fn, **options: made.append(options["hosts"]))
    assert main(["serve", f"--model={model}", "--port=0", f"--host={host}"]) == 0
    assert made == [hosts]
    assert ("Everyone on the network can use the page" in capsys.readouterr().err) == warned


def test_without_uvicorn_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "drsn_jax.serving.server")
    assert main(["serve"]) == 2
    assert "pip install 'drsn-jax[serve]'" in capsys.readouterr().err


def test_a_job_that_cannot_be_interrupted_does_not_keep_the_process():
    """A compilation, or a tile that takes minutes: here a thread that sleeps for an hour."""
    code = """
import time
from drsn_jax.serving import server

def make_app(folder, turns):
    turns._executor.submit(lambda: turns._busy.acquire() and time.sleep(3600))
    print(folder)
    return None

server.run_server(make_app, server.open_socket("127.0.0.1", 0), greeting="ready\\n")
"""
    with subprocess.Popen([sys.executable, "-c", code], env=tiny.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            folder = Path(process.stdout.readline().strip())
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.wait(timeout=100) == 0
        finally:
            process.kill()
    assert not folder.exists()


def test_a_connection_whose_header_does_not_end_is_closed_and_one_whose_body_is_slow_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    with page(tmp_path / "private") as address:
        where = ("127.0.0.1", int(address.rsplit(":", 1)[1]))
        photo = io.BytesIO()
        Image.new("RGB", (16, 16)).save(photo, "PNG")
        head = f"POST /restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(photo.getvalue())}\r\n\r\n".encode()
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"):
            with socket.create_connection(where, timeout=60) as client:
                client.sendall(begun)
                received = b"".join(iter(lambda: client.recv(65536), b""))  # until it is closed
                assert received.count(b"HTTP/1.1 200") == (b"health" in begun)
        with socket.create_connection(where, timeout=60) as client:
            client.sendall(head)
            time.sleep(1.5)
            client.sendall(photo.getvalue())
            assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def page(folder: Path):
    """Serve the page in a thread, with negatives as restored photographs; return its address."""
    folder.mkdir()
    listener, turns = server.open_socket("127.0.0.1", 0), JobQueue()

    def make_fn(choices, check):
        return lambda image: image + choices.strength * (1 - 2 * image)

    app = make_app(make_fn, folder=folder, jobs=turns, model="negative")
    config = uvicorn.Config(app, http=server.HeaderDeadline, log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server.address_of(listener)
    finally:
        running.should_exit = True
        thread.join(timeout=60)
        turns.close(seconds=60)


def downloaded(browser: Browser, folder: Path) -> Image.Image:
    """Return the file that a click on the link saves."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    element(browser, "download", "click()")
    end = time.monotonic() + 100
    while not (files := [path for path in folder.iterdir() if path.suffix == ".png"]):
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.02)
    return Image.open(files[0])


def element(browser: Browser, name: str, value: str):
    return browser.run(f"document.getElementById({json.dumps(name)}).{value}")


@pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in Chromium, which is not installed: apt-get install chromium")
def test_in_a_browser_a_photograph_is_dropped_compared_and_downloaded(photograph, tmp_path):
    Image.fromarray(photograph[100:340, :400]).save(tmp_path / "a <b> & c.png")
    Image.fromarray(photograph[:60, :80]).save(tmp_path / "scan.tif")
    with page(tmp_path / "private") as address, Browser(tmp_path / "profile", width=1000, height=800) as browser:
        browser.open(address)
        browser.wait("document.getElementById('limits').textContent.includes('up to 32 MB and 50 megapixels')")

        browser.choose_file("#file", tmp_path / "a <b> & c.png")
        browser.wait("document.getElementById('download').href")
        assert element(browser, "caption", "textContent").startswith("a <b> & c.png · 400 × 240, 0.10 megapixels · restored in ")
        assert element(browser, "download", "download") == "a <b> & c-restored.png"
        np.testing.assert_array_equal(np.asarray(downloaded(browser, tmp_path / "saved")), 255 - photograph[100:340, :400])

        # The line: half of each picture, then by the mouse, then by the keyboard, and what is seen there.
        x, y, width = (element(browser, "cut", f"getBoundingClientRect().{name}") for name in ("x", "y", "width"))
        clip = "getComputedStyle(document.getElementById('after')).clipPath"
        assert browser.run(clip) == "inset(0px 0px 0px 50%)"
        browser.drag((x + width / 2, y + 20), (x + width / 4, y + 20))
        dragged = float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", browser.run(clip))[1])
        assert 20 < dragged < 30
        browser.press("ArrowRight")
        assert browser.run(clip) == f"inset(0px 0px 0px {dragged + 0.5:g}%)"
        seen = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)
        x, y = round(x), round(y)
        for column, expected in ((50, photograph[100:340, :400]), (250, 255 - photograph[100:340, :400])):
            difference = seen[y + 180 : y + 220, x + column : x + column + 40] - expected[180:220, column : column + 40]
            assert np.abs(difference).max() < 4, "before on the left, after on the right"

        browser.run("(() => { const s = document.getElementById('strength'); s.value = 0; s.dispatchEvent(new Event('change')); })()")
        browser.wait("document.getElementById('download').href")
        np.testing.assert_array_equal(np.asarray(downloaded(browser, tmp_path / "saved")), photograph[100:340, :400])

        browser.choose_file("#file", tmp_path / "scan.tif")  # which the browser itself cannot show
        browser.wait("document.getElementById('download').href && document.getElementById('caption').textContent.startsWith('scan')")
        assert element(browser, "before", "naturalWidth") == 80
        assert (element(browser, "download", "download"), downloaded(browser, tmp_path / "saved").size) == ("scan-restored.png", (80, 60))

        browser.run("""(() => { const held = new DataTransfer(); held.items.add(new File(["no photograph"], "notes.jpg"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true })); })()""")
        browser.wait("!document.getElementById('error').hidden")
        assert element(browser, "error", "textContent").startswith("The file is not an image of a format that can be read")
        assert not element(browser, "drop", "hidden")

        for width in (320, 1000):  # nothing to scroll sideways
            browser.resize(width, 640, dark=True)
            assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 20)"
        said = [event["params"] for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert [event["entry"]["text"].split("status of ")[1][:3] for event in said] == ["422"], said


FOCUS = "(document.activeElement.id || document.activeElement.tagName)"


@pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in Chromium, which is not installed: apt-get install chromium")
def test_it_is_used_by_keyboard_alone(photograph, tmp_path):
    Image.fromarray(photograph[:60, :80]).save(tmp_path / "a.png")
    with page(tmp_path / "private") as address, Browser(tmp_path / "profile", width=390, height=800) as browser:
        browser.open(address)
        browser.press("Tab")
        assert browser.run(FOCUS) == "file"
        outline = "getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"
        assert browser.run(outline) == "solid", "where the keyboard is can be seen"
        browser.choose_file("#file", tmp_path / "a.png")
        browser.wait("document.getElementById('download').href")
        assert browser.run(FOCUS) == "cut", "the line is the first thing of the result"
        order = []
        for _ in range(4):
            browser.press("Tab")
            order.append(browser.run(FOCUS))
        assert order == ["strength", "ensemble", "download", "again"]
        assert element(browser, "status", "textContent").startswith("Done: restored in"), "said by a screen reader"
        element(browser, "cut", "focus()")
        browser.press("ArrowLeft")
        assert element(browser, "cut", "getAttribute('aria-valuetext')") == "50 % before, 51 % after"
        heights = browser.run("[...document.querySelectorAll('.actions .button')].map((button) => button.getBoundingClientRect().height)")
        assert min(heights) >= 40, "large enough for a thumb"


@pytest.mark.skipif(not (CHROMIUM and AXE), reason="Chromium or npm's axe-core is not installed: npm install axe-core")
@pytest.mark.parametrize(("dark", "width"), [(False, 1000), (True, 390)])
def test_axe_finds_no_barrier(dark, width, photograph, tmp_path):
    Image.fromarray(photograph[:60, :80]).save(tmp_path / "a.png")
    (tmp_path / "notes.jpg").write_text("no photograph")
    with page(tmp_path / "private") as address, Browser(tmp_path / "profile", width=width, height=800) as browser:
        browser.resize(width, 800, dark=dark)
        browser.open(address)
        browser.wait("document.getElementById('limits').textContent.includes('up to 32 MB')")
        assert browser.find_barriers() == []
        browser.choose_file("#file", tmp_path / "a.png")
        browser.wait("document.getElementById('download').href")
        assert browser.find_barriers() == []
        browser.choose_file("#file", tmp_path / "notes.jpg")
        browser.wait("!document.getElementById('error').hidden")
        assert browser.find_barriers() == []
        browser.run("document.documentElement.removeAttribute('lang')")
        assert [found.split(":")[0] for found in browser.find_barriers()] == ["html-has-lang"], "axe looks at all"
