"""The page of `demo` in a real browser: every way to give it an image, with the answers of PyTorch."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.demo_screenshot import serving, wait_for_answer
from benchmarks.web_drawing import TWO, draw_with_finger, draw_with_mouse, press, set_window
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.data.digits import load_digits
from mnist_edge.demo.run import OpenDemo
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.targets.web import chromium
from mnist_edge.targets.web.chromium import Browser, open_browser
from tests.demo_requests import bomb, picture
from tests.test_web_page import needs_browser

pytestmark = [pytest.mark.slow, needs_browser]

SIZES = {"phone": (390, 844), "desktop": (1280, 800)}


@pytest.fixture(scope="module")
def demo(two_variant_bundle: Path) -> Iterator[OpenDemo]:
    """A page with two variants, fp32 and int8."""
    with serving(two_variant_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser, with a camera that shows a test picture."""
    with pytest.MonkeyPatch.context() as patch:
        fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        patch.setattr(chromium, "FLAGS", (*fake, *chromium.FLAGS))
        with open_browser() as found:
            yield found


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, demo: OpenDemo, browser: Browser) -> Iterator[Browser]:
    """The page, freshly loaded; it must leave no message in the console and reach for nothing but its server."""
    width, height = SIZES[request.param]
    set_window(browser, width, height, phone=request.param == "phone")
    browser.events.clear()
    browser.open(demo.report.url)
    yield browser
    noisy = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}
    expected = ("the server responded with a status of 422",)  # Chromium logs every refused image
    problems = [event for event in browser.events if event[0] in noisy and not any(e in str(event) for e in expected)]
    assert problems == []
    requests = {event["request"]["url"] for name, event in browser.events if name == "Network.requestWillBeSent"}
    own = demo.report.url
    assert all(url.startswith((own, f"blob:{own}", "data:,")) for url in requests), requests
    width_needed = browser.evaluate("document.documentElement.scrollWidth")
    assert width_needed <= width, "the page does not scroll sideways"


def shown(browser: Browser) -> dict[str, Any]:
    """What a person reads once the answer is there."""
    wait_for_answer(browser)
    found = browser.evaluate("""({
        digit: element("digit").textContent,
        text: element("confidence").textContent,
        spoken: element("spoken").textContent,
        refused: element("confidence").classList.contains("refused"),
        photo: !photo.hidden,
        bars: [...document.querySelectorAll("#bars b")].map((bar) => bar.textContent),
        rows: [...document.querySelectorAll("#variants tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
        prepared: [...inkOf(element("prepared"))],
    })""")
    return dict(found)


def check_answer(found: dict[str, Any], bundle: Path) -> None:
    """Compare what is shown with each variant's own model on the image that is shown as prepared; fp32 with PyTorch too."""
    image = np.array(found["prepared"], np.uint8).reshape(1, 28, 28)
    assert image.max() > 127
    bundle_read = load_bundle(bundle)
    assert [row[0] for row in found["rows"]] == [variant.name for variant in bundle_read.manifest.variants]
    for row, variant in zip(found["rows"], bundle_read.manifest.variants, strict=True):
        logits = open_classifier(bundle_read.file(variant)).logits(image)[0].astype(float)
        scaled = logits / (variant.temperature or 1.0)
        shares = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
        assert row[1].removesuffix("?") == str(shares.argmax())
        assert float(row[2].removesuffix(" %")) == pytest.approx(100 * shares.max(), abs=0.051)
        assert re.fullmatch(r"\d+ µs|\d+\.\d ms", row[3])
    if not found["refused"]:
        first = found["rows"][0]
        assert (found["digit"], found["text"], found["spoken"]) == (first[1], first[2], f"{first[1]}, {first[2]}")
    assert sum(float(bar.removesuffix(" %")) for bar in found["bars"]) == pytest.approx(100, abs=0.5)


def check_pytorch(found: dict[str, Any], workplace: Path) -> None:
    """Compare the digit of fp32 with PyTorch's."""
    from mnist_edge.training.model import reference_logits
    from mnist_edge.training.state_dict import read_model

    loaded = read_model(workplace / "runs" / "digits")
    image = np.array(found["prepared"], np.uint8).reshape(1, 28, 28)
    logits = reference_logits(loaded.network, image, normalization=loaded.normalization)
    assert found["rows"][0][1].removesuffix("?") == str(logits[0].argmax())


@pytest.mark.parametrize("how", ["mouse", "finger", "keys"])
def test_a_drawing_is_answered_and_cleared(page: Browser, how: str, two_variant_bundle: Path, workplace: Path) -> None:
    """Mouse, touch and keyboard: the answer of every variant follows the stroke, and is gone after Clear."""
    assert shown(page)["text"] == "Draw or choose a digit"
    if how == "mouse":
        draw_with_mouse(page, TWO)
    elif how == "finger":
        page.send("Emulation.setTouchEmulationEnabled", enabled=True)
        draw_with_finger(page, TWO)
    else:
        page.evaluate("paper.focus()")
        press(page, " ")
        press(page, "ArrowDown", 7, shift=True)
        press(page, " ")
    found = shown(page)
    check_answer(found, two_variant_bundle)
    check_pytorch(found, workplace)
    page.evaluate("element('clear').click()")
    found = shown(page)
    assert (found["digit"], found["text"], found["rows"], max(found["prepared"])) == (
        "–",
        "Draw or choose a digit",
        [],
        0,
    )


def test_a_stroke_may_reach_the_edge(page: Browser) -> None:
    """In a photo, what touches the edge is not part of the digit; on the paper it is drawn there on purpose."""
    draw_with_mouse(page, [(0.1, 0.005), (0.995, 0.005), (0.3, 0.995)])
    found = shown(page)
    assert found["rows"], found["text"]


def handwritten() -> bytes:
    """A digit that a person wrote, large and black on white, as a JPEG."""
    image = load_digits().test_images[3]
    large = Image.fromarray(255 - np.pad(image, 8)).resize((440, 440), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90)
    return file.getvalue()


def choose(page: Browser, path: Path) -> None:
    """Choose a file as the dialog of the browser does."""
    document = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def drop(page: Browser, path: Path) -> None:
    """Drop a file on the drawing area."""
    box = page.evaluate("paper.getBoundingClientRect().toJSON()")
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=box["x"] + 50, y=box["y"] + 50, data=data)


def paste(page: Browser, path: Path) -> None:
    """Put an image on the clipboard, as a program does that copies one, and paste it."""
    content = json.dumps(base64.b64encode(path.read_bytes()).decode())
    page.evaluate(f"""(() => {{
        const bytes = Uint8Array.from(atob({content}), (character) => character.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "image.png", {{ type: "image/png" }}));
        document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data, bubbles: true }}));
    }})()""")


@pytest.mark.parametrize("give", [choose, drop, paste])
def test_an_image_is_answered(
    page: Browser, give: Any, two_variant_bundle: Path, workplace: Path, tmp_path: Path
) -> None:
    """A file that is chosen, dropped or pasted is shown in place of the drawing, and answered as a drawing is."""
    path = tmp_path / "a digit.jpg"
    path.write_bytes(handwritten())
    draw_with_mouse(page, TWO)
    drawn = shown(page)
    give(page, path)
    page.evaluate("new Promise(done => { const wait = () => photo.hidden ? setTimeout(wait, 10) : done(); wait(); })")
    found = shown(page)
    assert found["photo"]
    assert page.evaluate("inkOf(paper).every(alpha => alpha === 0)")
    assert found["prepared"] != drawn["prepared"]
    check_answer(found, two_variant_bundle)
    check_pytorch(found, workplace)
    draw_with_mouse(page, TWO)
    found = shown(page)
    assert (found["photo"], found["prepared"]) == (False, drawn["prepared"])


BAD = {
    "blank.png": (picture(digit=False), "No digit"),
    "cut.jpg": (picture(file_format="JPEG")[:-400], "The image is damaged"),
    "bomb.png": (bomb(50_000, 50_000), "pixels"),
    "text.png": (b"a text", "The image is no PNG, JPEG or WebP image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_refused_image_says_why(page: Browser, name: str, tmp_path: Path) -> None:
    """No digit is shown, and a line in red says what is wrong; the next image is answered."""
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    choose(page, tmp_path / name)
    page.evaluate("new Promise(done => { const wait = () => turn === 0 ? setTimeout(wait, 10) : done(); wait(); })")
    found = shown(page)
    assert message in found["text"]
    assert (found["digit"], found["refused"], found["rows"], found["spoken"]) == ("–", True, [], found["text"])
    draw_with_mouse(page, TWO)
    assert shown(page)["rows"]


def test_a_photo_of_the_camera_is_sent(page: Browser, request: pytest.FixtureRequest) -> None:
    """The camera's picture is answered, and the camera is off afterwards; a telephone opens its own program."""
    if request.node.callspec.params["page"] == "phone":
        page.evaluate("element('capture').addEventListener('click', () => { globalThis.opened = true; })")
        page.evaluate("element('capture').addEventListener('click', (event) => event.preventDefault())")
        page.evaluate("element('camera').click()")
        assert page.evaluate("globalThis.opened") is True
        return
    page.evaluate("element('camera').click()")
    page.evaluate("""new Promise((done) => {
        const wait = () => viewfinder.open && video.videoWidth > 0 ? done() : setTimeout(wait, 10); wait(); })""")
    page.evaluate("globalThis.track = video.srcObject.getTracks()[0]")
    page.evaluate("element('take').click()")
    page.evaluate("new Promise(done => { const wait = () => photo.hidden ? setTimeout(wait, 10) : done(); wait(); })")
    found = shown(page)
    assert found["photo"]
    assert found["refused"] or found["rows"]
    assert page.evaluate("[viewfinder.open, track.readyState]") == [False, "ended"]


def test_a_server_that_has_ended_is_named(two_variant_bundle: Path, browser: Browser) -> None:
    """A page that stays open after Ctrl-C says so, and does not show an old answer."""
    set_window(browser, *SIZES["desktop"])
    with serving(two_variant_bundle) as demo:
        browser.open(demo.report.url)
    draw_with_mouse(browser, TWO)
    found = shown(browser)
    assert found["text"] == "The server does not answer: is mnist-edge demo still running?"
    assert (found["digit"], found["rows"]) == ("–", [])


def test_only_the_newest_image_is_shown(page: Browser) -> None:
    """Quick strokes do not pile up, and paper that is cleared while the server works stays empty."""
    for _ in range(3):
        draw_with_mouse(page, TWO)
    page.evaluate("""new Promise((done) => {
        const wait = () => (sending ? done(element("clear").click()) : setTimeout(wait, 0));
        strokeEnded();
        wait();
    })""")
    page.evaluate("new Promise(done => { const wait = () => sending ? setTimeout(wait, 10) : done(); wait(); })")
    found = shown(page)
    assert (found["digit"], found["rows"]) == ("–", [])
