"""The page's server without a network or a port: what it answers, every limit, and who waits for whom."""

import asyncio
import contextlib
import io
import json
import re
import struct
import threading
import zlib
from typing import NamedTuple

import jax
import numpy as np
import pytest
from levels import assert_same_levels
from PIL import Image, ImageCms
from PIL.ExifTags import Base

pytest.importorskip("starlette", reason="the page needs starlette and uvicorn: pip install 'drsn-jax[serve]'")

from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.serving.app import make_app
from drsn_jax.serving.job_queue import Cancelled, JobQueue
from drsn_jax.serving.limits import Limits
from drsn_jax.serving.photographs import Choices, make_choosing_fn
from drsn_jax.weights.model import Model

SIZE = (40, 24)  # width, height
MODEL = Model(lambda image: image * np.float32(0.5), 4, {}, {})


def picture(format="JPEG", *, size=SIZE, mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    ramp = Image.fromarray(np.linspace(0, 255, size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0]))
    ramp.convert(mode).save(file, format, **options)
    return file.getvalue()


def app(tmp_path, make_fn=None, **limits):
    folder = tmp_path / "private"
    folder.mkdir(exist_ok=True)
    choosing = {"limits": Limits(**limits), "hosts": ("testserver", "[::1]")}
    return make_app(make_fn or make_choosing_fn(MODEL), folder=folder, jobs=JobQueue(), model="tiny", **choosing)


def opened(answer) -> Image.Image:
    assert answer.status == 200, answer.text
    return Image.open(io.BytesIO(answer.body))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def says(self) -> str:
        """Return the message of an error, which must be its only content."""
        [(key, text)] = json.loads(self.body).items()
        assert key == "error"
        return text


class Caller:
    """One request to an application, a message at a time: a client that is slow, leaves, or has not said how much it sends."""

    def __init__(self, application, body=(), *, path="/restore", method="POST", headers=(), ends=True):
        chunks = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in body]
        self.chunks = iter(chunks + [{"type": "http.request", "body": b"", "more_body": False}] * ends)
        self.taken, self.left, self.messages = 0, asyncio.Event(), []
        path, _, query = path.partition("?")
        named = {"host": "testserver"} | dict(headers)
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
        scope |= {"scheme": "http", "query_string": query.encode(), "root_path": "", "server": ("testserver", 80)}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in named.items()]
        self.task = asyncio.ensure_future(application(scope, self.receive, self.send))

    async def receive(self):
        await asyncio.sleep(0)
        for message in self.chunks:
            self.taken += 1
            return message
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.messages.append(message)

    async def answer(self) -> Answer | None:
        """None where there was none."""
        with contextlib.suppress(RuntimeError):  # a failure is answered, and goes on to where it is logged
            await asyncio.wait_for(self.task, 60)
        if not self.messages:
            return None
        headers = {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}
        return Answer(self.messages[0]["status"], headers, b"".join(message.get("body", b"") for message in self.messages[1:]))


def ask(application, path="/restore", body=b"", **options) -> Answer:
    async def run():
        return await Caller(application, [body], path=path, **options).answer()

    answer = asyncio.run(run())
    assert answer is not None
    return answer


def test_a_photograph_keeps_its_format_exif_and_profile_and_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Orientation] = "camera", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    answer = ask(app(tmp_path), "/restore", picture(exif=exif, icc_profile=profile))
    image = opened(answer)
    assert (image.format, image.size, answer.headers["content-type"]) == ("JPEG", SIZE[::-1], "image/jpeg")
    assert answer.headers["x-image-size"] == f"{SIZE[1]}x{SIZE[0]}"
    assert re.fullmatch(r"restore;dur=\d+", answer.headers["server-timing"])
    assert (image.getexif()[Base.Make], image.getexif()[Base.Orientation]) == ("camera", 1)
    assert image.info["icc_profile"] == profile
    assert not list((tmp_path / "private").iterdir()), "deleted once it is answered"


@pytest.mark.parametrize(
    ("given", "answered"), [("PNG", "PNG"), ("WEBP", "WEBP"), ("BMP", "BMP"), ("GIF", "GIF"), ("TIFF", "PNG"), ("PPM", "PNG")]
)
def test_what_browsers_do_not_show_is_answered_as_png(given, answered, tmp_path):
    answer = ask(app(tmp_path), "/restore", picture(given))
    assert (opened(answer).format, opened(answer).size) == (answered, SIZE)
    assert answer.headers["content-type"] == f"image/{answered.lower()}"


def test_sixteen_bits_and_transparency_stay(tmp_path):
    deep = opened(ask(app(tmp_path), "/restore?strength=0", picture("PNG", mode="I;16")))
    clear = opened(ask(app(tmp_path), "/restore", picture("TIFF", mode="LA")))
    assert np.array_equal(np.asarray(deep), np.asarray(Image.open(io.BytesIO(picture("PNG", mode="I;16")))))
    assert (clear.format, clear.mode) == ("PNG", "LA")


@pytest.mark.parametrize("choices", [Choices(), Choices(0.25), Choices(1.0, True)])
def test_the_choices_are_those_of_the_command_line(choices, tmp_path, rng):
    pixels = rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    query = f"?strength={choices.strength}&ensemble={int(choices.self_ensemble)}"
    restored = np.asarray(opened(ask(app(tmp_path), f"/restore{query}", file.getvalue())))
    expected = make_restore_fn(MODEL, **choices._asdict())(pixels.astype(np.float32) / np.float32(255))
    assert_same_levels(restored, np.rint(expected * np.float32(255)))


def test_strength_0_does_not_ask_the_network_and_every_tile_asks_whether_to_go_on():
    calls = []
    image = np.full((16, 30, 3), 0.5, np.float32)
    make_fn = make_choosing_fn(MODEL._replace(predict_fn=lambda tile: calls.append(tile.shape) or tile), tile=16, overlap=4)
    assert make_fn(Choices(0.0), lambda: calls.append("asked"))(image) is image
    assert not calls
    make_fn(Choices(), lambda: calls.append("asked"))(image)
    assert calls == ["asked", (1, 16, 16, 3)] * 3


def test_programs_do_not_pile_up_with_the_sizes_of_photographs():
    traced = []
    predict_fn = jax.jit(lambda image: traced.append(image.shape) or image)
    restore_fn = make_choosing_fn(MODEL._replace(predict_fn=predict_fn))(Choices(), lambda: None)
    held = []
    for width in [*range(16, 16 + 4 * 33, 4), 16]:
        restore_fn(np.zeros((16, width, 3), np.float32))
        held.append(predict_fn._cache_size())
    assert max(held) == 32
    assert len(traced) == 34, "each is compiled once, and the first again"


GIF = io.BytesIO()
Image.new("L", SIZE).save(GIF, "GIF", save_all=True, append_images=[Image.new("L", SIZE, 9)])
BOMB = picture("BMP")[:18] + (1 << 24).to_bytes(4, "little") + picture("BMP")[22:]  # its width, which no checksum covers


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "contains no file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "The file is not an image of a format that can be read"),
        (picture("TIFF")[:-100], 422, "The file is damaged or cut short"),
        (picture("PNG")[:60], 422, "The file is damaged or cut short"),
        (GIF.getvalue(), 422, "The file contains 2 frames"),
        (picture("TIFF", mode="F"), 422, "floating-point"),
        (BOMB, 422, "The file is too large"),
        (picture("ICO"), 422, "format"),  # Pillow reads it; we do not
    ],
)
def test_a_file_that_cannot_be_restored_is_refused_in_plain_words(body, status, says, tmp_path):
    answer = ask(app(tmp_path), "/restore", body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert says in answer.says()
    assert str(tmp_path) not in answer.text, "where uploads lie is nobody's business"
    assert not list((tmp_path / "private").iterdir())


def test_too_many_pixels_are_refused_by_the_header_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    small = SIZE[0] * SIZE[1] - 1
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"):
        answer = ask(app(tmp_path, max_pixels=small), "/restore", picture(format))
        assert answer.status == 422
        assert "has 40x24 pixels (0.0 MP), more than 0.000959 MP" in answer.says()


def test_a_tile_larger_than_its_image_counts(tmp_path):
    """Pillow decodes 16x16 pixels in one tile of 32,000x32,000 (1 MB of zeros, compressed) as a gigabyte."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, 32000), (323, 32000), (324, 134), (325, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    body = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + zlib.compress(b"") + bytes(9)
    answer = ask(app(tmp_path), body=body)
    assert answer.status == 422
    assert "has tiles of 32000x32000 pixels (1024.0 MP), more than 50 MP" in answer.says()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("strength=2", "strength=2 is not a number from 0 to 1"),
        ("strength=nan", "strength=nan"),
        ("strength=", "strength="),
        ("ensemble=yes", "ensemble=yes is neither 0 nor 1"),
        ("tile=4", "'tile' is not known"),
    ],
)
def test_wrong_choices_are_named(query, says, tmp_path):
    answer = ask(app(tmp_path), f"/restore?{query}", picture())
    assert answer.status == 400
    assert says in answer.says()


def form(*parts, boundary="xyz"):
    """Make the body of a form as curl and browsers do, and its header; parts are (name, file's name or None, content)."""
    body = b""
    for name, filename, content in parts:
        named = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        kind = "\r\nContent-Type: image/jpeg" if filename is not None else ""
        body += f"--{boundary}\r\nContent-Disposition: {named}{kind}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_form_is_answered_as_the_file_itself_however_it_is_cut(size, tmp_path):
    """`curl -F file=@x.jpg`, and the page's own form without JavaScript."""
    photo = picture("PNG") + b"\r\n--xy"  # what looks like the form's own boundary, after the end of the picture

    async def run(body, headers):
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        return await Caller(app(tmp_path), chunks, headers=headers).answer()

    plain = asyncio.run(run(photo, {}))
    assert asyncio.run(run(*form(("file", "x.png", photo)))).body == plain.body
    half = asyncio.run(run(*form(("strength", None, b"0.5"), ("photo", "", photo), ("ensemble", None, b"0"))))
    assert half.body == ask(app(tmp_path), "/restore?strength=0.5", photo).body != plain.body
    assert not list((tmp_path / "private").iterdir())


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ([("strength", None, b"1")], 400, "contains no file"),
        ([("file", "x.png", b"")], 400, "contains no file"),
        ([("file", "x.png", picture("PNG")), ("strength", None, b"2")], 400, "strength=2 is not a number from 0 to 1"),
        ([("file", "x.png", picture("PNG")), ("sharpness", None, b"1")], 400, "'sharpness' is not known"),
        ([("a", "x.png", picture("PNG")), ("b", "y.png", picture("PNG"))], 400, "more than one file"),
        ([("strength", None, b"1" * 500)], 400, "too long"),
        ([("file", "x.png", b"x" * 2000)], 413, "larger than 0.001 MB"),
    ],
)
def test_a_form_that_cannot_be_answered_is_refused_in_plain_words(parts, status, says, tmp_path):
    body, headers = form(*parts)
    answer = ask(app(tmp_path, max_bytes=1000), body=body, headers=headers)
    assert (answer.status, says in answer.says()) == (status, True), answer.text
    assert not list((tmp_path / "private").iterdir())


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary="])
def test_what_is_no_form_is_said(kind, tmp_path):
    assert "no boundary" in ask(app(tmp_path), body=picture(), headers={"content-type": kind}).says()
    answer = ask(app(tmp_path), body=picture(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status, answer.says()) == (400, "The form cannot be read; send it as multipart/form-data.")


def test_other_names_of_this_machine_and_pages_of_others_are_refused(tmp_path):
    application, body = app(tmp_path), picture()
    for path, method in (("/", "GET"), ("/health", "GET"), ("/restore", "POST")):
        assert ask(application, path, body, method=method, headers={"host": "evil.example"}).status == 400
    assert ask(application, "/health", method="GET", headers={"host": "[::1]:8765"}).status == 200
    for origin in ("http://evil.example", "null", "http://testserver:81"):
        assert ask(application, body=body, headers={"origin": origin}).status == 403
    answer = ask(application, body=body, headers={"origin": "http://testserver"})
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


def test_a_failure_of_ours_is_said_without_its_details_and_with_the_safe_headers(tmp_path):
    def fail(*_):
        raise RuntimeError("secret")

    answers = [ask(app(tmp_path, fail), body=picture()), ask(app(tmp_path), method="GET")]
    assert [answer.status for answer in answers] == [500, 405]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'"
        assert "secret" not in answer.text


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(tmp_path):
    answer = ask(app(tmp_path), "/", method="GET")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "'self' blob: data:"
    assert policy["script-src"].startswith("'sha256-")
    assert set(re.findall(r"https?://[^\s\"'<)]+", answer.text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address to load
    assert not re.search(r"\son\w+=|\sstyle=|@import|url\(", answer.text), "the policy would block it"


def test_health_names_the_model_and_the_limits(tmp_path):
    health = ask(app(tmp_path, max_bytes=5, max_pixels=7, waiting=2), "/health", method="GET")
    assert json.loads(health.body) == {"status": "ok", "model": "tiny", "max_bytes": 5, "max_pixels": 7, "requests": 0, "max_requests": 3}


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("headers", "taken"), [({}, 3), ({"content-length": "1000"}, 0), ({"content-length": "7"}, 3)])
def test_an_upload_ends_where_the_limit_is_whatever_its_length_says(headers, taken, tmp_path):
    async def run():
        caller = Caller(app(tmp_path, max_bytes=25), [b"x" * 10] * 100, headers=headers)
        assert ((await caller.answer()).status, caller.taken) == (413, taken)

    asyncio.run(run())
    assert not list((tmp_path / "private").iterdir())


def test_an_upload_that_does_not_end_gives_its_place_back(tmp_path):
    async def run():
        application = app(tmp_path, waiting=0, transfer_seconds=0.05)
        assert (await Caller(application, [b"x"], ends=False).answer()).status == 408
        assert (await Caller(application, [picture()]).answer()).status == 200

    asyncio.run(run())


class Gate:
    """Restores nothing; holds each image until it is opened, asking all the while whether to go on."""

    def __init__(self):
        self.open, self.started, self.abandoned = threading.Event(), [], []

    def __call__(self, choices, check):
        def restore_fn(image):
            self.started.append(choices)
            while not self.open.wait(0.005):
                try:
                    check()
                except Cancelled:
                    self.abandoned.append(choices)
                    raise
            return image

        return restore_fn


def test_one_is_restored_some_wait_and_the_next_is_told_to_come_back(tmp_path):
    async def run():
        gate = Gate()
        application = app(tmp_path, gate, waiting=1)
        first = Caller(application, [picture()])
        await until(lambda: gate.started)
        second = Caller(application, [picture()])
        await until(lambda: second.taken == 2)
        third = Caller(application, [picture()[:100], picture()[100:]])
        answer = await third.answer()
        assert (answer.status, answer.headers["retry-after"], third.taken) == (503, "10", 3)
        second.left.set()
        assert await second.answer() is None
        fourth = Caller(application, [picture()])
        await until(lambda: fourth.taken == 2)
        assert len(gate.started) == 1, "two at a time on the device"
        gate.open.set()
        assert [(await caller.answer()).status for caller in (first, fourth)] == [200, 200]
        assert len(gate.started) == 2, "what nobody waited for any more was restored"

    asyncio.run(run())
    assert not list((tmp_path / "private").iterdir())


def test_what_nobody_waits_for_any_more_ends_at_its_next_tile(tmp_path):
    async def run():
        gate = Gate()
        application = app(tmp_path, gate, waiting=0)
        first = Caller(application, [picture()])
        await until(lambda: gate.started)
        first.left.set()
        assert await first.answer() is None
        await until(lambda: gate.abandoned)
        gate.open.set()
        assert (await Caller(application, [picture()]).answer()).status == 200

    asyncio.run(run())


def test_nothing_is_left_of_a_photograph_whose_client_leaves_during_its_last_tile(tmp_path):
    began, go_on, turns = threading.Event(), threading.Event(), JobQueue()

    def wait(image):  # as the network does on a tile: without asking
        began.set()
        go_on.wait(60)
        return image

    async def run():
        application = make_app(lambda *_: wait, folder=tmp_path, jobs=turns, model="tiny")
        caller = Caller(application, [picture()])
        await until(began.is_set)
        caller.left.set()
        assert await caller.answer() is None
        go_on.set()

    asyncio.run(run())
    assert turns.close(seconds=60)
    assert not list(tmp_path.iterdir())


def test_when_the_server_ends_so_does_what_is_under_way(tmp_path):
    gate, turns = Gate(), JobQueue()

    async def run():
        task = asyncio.ensure_future(turns.run(lambda check: gate(Choices(), check)(np.zeros((1, 1, 3), np.float32))))
        await until(lambda: gate.started)
        assert not turns.close(seconds=0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert turns.close(seconds=60)
