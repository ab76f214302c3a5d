"""The page: one file that can reach nothing, refuses a changed model, and predicts what a person draws in a real browser."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.web_drawing import (
    TWO,
    draw_with_finger,
    draw_with_mouse,
    press,
    set_window,
    wait_for_frame,
)  # fmt: skip
from mnist_edge.errors import CheckFailedError, UnavailableError
from mnist_edge.targets.web import predictor, wasm
from mnist_edge.targets.web.chromium import DEVICE, NAMES, Browser, PageFailedError, open_browser
from mnist_edge.targets.web.page import PageModel, write_page
from mnist_edge.targets.web.predictor import open_page, read_logits
from mnist_edge.targets.web.wasm import compile_wasm

HEADER = """#include <stdint.h>
#define MODEL_PIXELS 784
#define MODEL_CLASSES 10
#define MODEL_LOGIT_SHIFT 12
typedef int32_t model_logit;
void model_logits(const uint8_t *image, model_logit *logits);
"""

needs_compiler = pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")), reason="needs clang and lld: apt-get install clang lld"
)
needs_browser = pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="needs Chromium: apt-get install chromium")


def linear_model(weights: np.ndarray) -> bytes:
    """Compile a model of one layer of integers, int8 (10, 784)."""
    rows = ",\n".join("{" + ",".join(map(str, row)) + "}" for row in weights.tolist())
    body = f"""#include "model.h"
static const int8_t weights[10][784] = {{{rows}}};
void model_logits(const uint8_t *image, model_logit *logits) {{
    for (int i = 0; i < 10; i++) {{
        logits[i] = 0;
        for (int j = 0; j < 784; j++) logits[i] += weights[i][j] * image[j];
    }}
}}
"""
    return compile_wasm({"model.h": HEADER, "model.c": body})


def linear_logits(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    sums = images.reshape(len(images), 784).astype(np.int64) @ weights.T.astype(np.int64)
    return (sums / 4096).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(3).integers(-127, 128, (10, 784), dtype=np.int8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (50, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(weights: np.ndarray, images: np.ndarray) -> PageModel:
    wasm = linear_model(weights)
    golden = images[:4]
    return PageModel(
        description="a </script> & <b>description</b>",
        wasm=wasm,
        images=golden,
        logits=linear_logits(weights, golden),
        tolerance=0.0,
    )


@pytest.fixture(scope="module")
def page(model: PageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a page") / "digits.html"
    path.write_bytes(write_page(model))
    return path


def inline(page: bytes, tag: str) -> list[bytes]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)


@needs_compiler
def test_the_policy_allows_exactly_what_the_page_holds(page: Path) -> None:
    # Protects the page against a changed model and injected scripts: whatever is not hashed does not run.
    content = page.read_bytes()
    (policy,) = re.findall(rb'http-equiv="Content-Security-Policy" content="([^"]*)"', content)
    directives = dict(part.strip().split(" ", 1) for part in policy.decode().split(";"))

    def hashes(tag: str) -> list[str]:
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inline(content, tag)]

    assert directives == {
        "default-src": "'none'",
        "script-src": " ".join([*hashes("script"), "'wasm-unsafe-eval'"]),
        "style-src": " ".join(hashes("style")),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(inline(content, "script")) == 2
    assert content.count(b"<script") == 2, "a description cannot open a script"


@needs_compiler
def test_the_page_names_no_address_and_is_small(page: Path, model: PageModel) -> None:
    # Protects offline use: no font, no image, no script from elsewhere.
    content = page.read_bytes()
    overhead = len(content) - len(base64.b64encode(model.wasm)) - len(base64.b64encode(model.images.tobytes()))
    assert overhead < 22_000
    for script in inline(content, "script"):
        content = content.replace(script, re.sub(rb'"[A-Za-z0-9+/=]{40,}"', b'""', script))  # base64
    assert not re.search(rb"https?:|//\w|\ssrc=|\shref=|@import|url\(|fetch\(|XMLHttpRequest|sendBeacon", content)


@needs_compiler
def test_equal_models_give_equal_pages(model: PageModel, page: Path) -> None:
    # Protects reproducibility: a page can be compared by its hash.
    assert write_page(model) == page.read_bytes()


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects the way out of the commonest problem.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="clang and wasm-ld not found") as found:
        compile_wasm({})
    assert found.value.hint == "apt-get install clang lld"


@needs_compiler
def test_code_that_does_not_compile_is_a_failed_check() -> None:
    # Protects against an edited model.c that would otherwise end in a traceback.
    with pytest.raises(CheckFailedError, match=r"clang cannot compile the model: model\.c:1"):
        compile_wasm({"model.h": HEADER, "model.c": "not C\n"})


def test_a_compiler_that_hangs_or_prints_garbage_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Protects against waiting for ever, and against a traceback on a message in another encoding.
    for name, does in {"clang": "printf 'caf\\351' >&2; test -e go && exec sleep 9; exit 1", "wasm-ld": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(CheckFailedError, match="caf\ufffd"):
        compile_wasm({})
    monkeypatch.setattr(wasm, "SECONDS", 0.05)
    with pytest.raises(CheckFailedError, match="did not end within"):
        compile_wasm({"go": ""})


def test_a_missing_browser_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects the way out where only the browser is missing.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="chromium not found") as found, open_browser():
        pass
    assert found.value.hint == "apt-get install chromium"


def test_a_browser_that_ends_at_once_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects the message where the sandbox or a library stops Chromium: its own last line is shown.
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no usable sandbox >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UnavailableError, match="does not start: no usable sandbox"), open_browser():
        pass


@pytest.mark.parametrize("returned", [None, "", base64.b64encode(bytes(4 * 19)).decode(), 5])
def test_too_few_logits_fail(returned: Any) -> None:
    # Protects the count: a page that stops early must not pass on the images that it returned.
    with pytest.raises(PageFailedError, match="logits for 2 images, expected 20"):
        read_logits(returned, 2, "page.html")


class EditedPage:
    """A browser whose page returns something else."""

    def __init__(self, *returned: object) -> None:
        self.returned = iter(returned)

    def open(self, *_arguments: object) -> None:
        """Load nothing."""

    def evaluate(self, *_arguments: object) -> object:
        return next(self.returned)


@pytest.mark.parametrize("result", [{}, None, [], {"passed": 1}, {"passed": False}, {"passed": False, "text": None}])
def test_an_edited_page_without_a_result_fails(result: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects exit code 1 and its one reason: anybody may edit a page that is verified.
    monkeypatch.setattr(predictor, "open_browser", lambda: contextlib.nullcontext(EditedPage("object", result)))
    (tmp_path / "page.html").touch()
    with (
        pytest.raises(PageFailedError, match="no result of its self-test"),
        open_page(tmp_path / "page.html", DEVICE, 1),
    ):
        pass


@pytest.mark.parametrize("returned", [None, 5, [None, ""], [1.5, ""], ["1", ""], [1], [1, None], [1, "é"], [1, "a"]])
def test_an_edited_page_without_logits_fails(returned: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects the same after the self-test; a count that is NaN arrives as None.
    edited = EditedPage("object", {"passed": True, "text": ""}, returned)
    monkeypatch.setattr(predictor, "open_browser", lambda: contextlib.nullcontext(edited))
    (tmp_path / "page.html").touch()
    with (
        open_page(tmp_path / "page.html", DEVICE, 1) as page,
        pytest.raises(PageFailedError, match="returned no"),
    ):
        page.self_test()


# In a real browser


@contextlib.contextmanager
def opened(page: Path, **window: Any) -> Iterator[Browser]:
    with open_browser() as browser:
        set_window(browser, **({"width": 1280, "height": 800} | window))
        browser.open(page.as_uri())
        browser.evaluate("ready.then(() => true)")
        yield browser


def text_of(browser: Browser, name: str) -> str:
    found: str = browser.evaluate(f"document.getElementById({name!r}).textContent")
    return found


def ink(browser: Browser) -> int:
    return int(browser.evaluate("inkOf(paper).filter(alpha => alpha > 127).length"))


def problems(browser: Browser) -> list[Any]:
    """Console messages, exceptions, refused or external requests."""
    noisy = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}
    requests = [event["request"]["url"] for name, event in browser.events if name == "Network.requestWillBeSent"]
    return [(name, event) for name, event in browser.events if name in noisy] + requests[1:]


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_a_page_from_a_file_computes_the_same_logits(page: Path, weights: np.ndarray, images: np.ndarray) -> None:
    # Protects the claim of equal bytes, and the page in a folder whose name has a space.
    with open_page(page, DEVICE, 30.0) as predictor:
        assert predictor.logits(images).tobytes() == linear_logits(weights, images).tobytes()
        assert text_of(predictor.browser, "test") == "Self-test: 4 of 4 images, logits equal"
        assert text_of(predictor.browser, "model") == "a </script> & <b>description</b>"
        assert problems(predictor.browser) == []


@pytest.mark.slow
@needs_compiler
@needs_browser
@pytest.mark.parametrize("how", ["mouse", "finger", "keys"])
def test_a_person_draws_and_clears(page: Path, how: str) -> None:
    # Protects every way to draw: the prediction follows, is announced, and is gone after clearing.
    with opened(page, phone=how == "finger", width=390 if how == "finger" else 1280) as browser:
        assert text_of(browser, "confidence") == "Draw a digit"
        if how == "mouse":
            draw_with_mouse(browser, TWO)
        elif how == "finger":
            draw_with_finger(browser, TWO)
        else:
            browser.evaluate("paper.focus()")
            press(browser, "ArrowDown", 3)
            assert ink(browser) == 0, "a lifted pen leaves no ink"
            press(browser, " ")
            press(browser, "ArrowDown", 5, shift=True)
            press(browser, " ")
            press(browser, "ArrowRight", 9)
        wait_for_frame(browser)
        assert ink(browser) > 5000
        assert re.fullmatch(r"\d, \d+\.\d %", text_of(browser, "spoken"))
        bars = browser.evaluate("[...document.querySelectorAll('#bars b')].map(bar => parseFloat(bar.textContent))")
        assert sum(bars) == pytest.approx(100, abs=0.5)
        shown = browser.evaluate("[...inkOf(document.getElementById('prepared'))]")
        assert shown == browser.evaluate("[...prepare(inkOf(paper), paper.width)]")
        if how == "keys":
            press(browser, "Delete")
        else:
            browser.evaluate("document.getElementById('clear').click()")
        wait_for_frame(browser)
        assert (ink(browser), text_of(browser, "spoken"), text_of(browser, "digit")) == (0, "Draw a digit", "–")
        assert problems(browser) == []


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_a_drawing_is_prepared_as_mnist_was(page: Path) -> None:
    # Protects accuracy on drawings: the longer side becomes 20 pixels, areas are averaged exactly, and the centre of mass
    # lies in the centre pixel. The reference averages whole cells: the boxes are 400 and 20 long.
    drawings = {"nothing": [], "upright": [(500, 150, 40, 400), (540, 510, 15, 40)], "flat": [(30, 530, 400, 30), (40, 510, 50, 20)],
                "small": [(7, 9, 20, 3), (7, 9, 3, 17)]}  # fmt: skip
    with opened(page) as browser:
        for name, boxes in drawings.items():
            ink = np.zeros((560, 560), np.uint8)
            fills = ""
            for x, y, width, height in boxes:
                ink[y : y + height, x : x + width] = 255
                fills += (
                    f"for (let i = {y}; i < {y + height}; i++) ink.fill(255, i * 560 + {x}, i * 560 + {x + width});"
                )
            found = browser.evaluate(
                f"(() => {{ const ink = new Uint8Array(560 * 560); {fills}"
                "const image = prepare(ink, 560); return image && [...image] })()"
            )
            assert found == (prepared(ink).ravel().tolist() if boxes else None), name


def prepared(ink: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(box.shape)
    square = np.zeros((side, side))
    square[: box.shape[0], : box.shape[1]] = box
    cells = square.reshape(20, side // 20, 20, side // 20).mean(axis=(1, 3))
    centre = [(cells.sum(axis) * np.arange(20)).sum() / cells.sum() for axis in (1, 0)]
    image = np.zeros((48, 48), int)
    top, left = (round(14 - value) for value in centre)
    image[top : top + 20, left : left + 20] = np.floor(cells + 0.5)
    return image[:28, :28]


def with_renewed_policy(page: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes of a script and renew its hash, as somebody who edits the file on purpose would."""
    (before,) = (script for script in inline(page, "script") if old in script)
    after = before.replace(old, new)
    first, second = (base64.b64encode(hashlib.sha256(text).digest()) for text in (before, after))
    return page.replace(before, after).replace(first, second)


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_a_changed_weight_fails_the_self_test(
    page: Path, model: PageModel, weights: np.ndarray, tmp_path: Path
) -> None:
    # Protects against a wrong model: the page predicts nothing, and `verify` exits with 1.
    weight = model.wasm.index(weights[0].tobytes()[:64])
    changed = bytearray(model.wasm)
    changed[weight + 400] ^= 1
    broken = tmp_path / "broken.html"
    old, new = base64.b64encode(model.wasm), base64.b64encode(bytes(changed))
    broken.write_bytes(with_renewed_policy(page.read_bytes(), old, new))
    with opened(broken) as browser:
        assert re.fullmatch("Self-test: [0-3] of 4 images agree: no predictions", text_of(browser, "test"))
        draw_with_mouse(browser, TWO)
        assert text_of(browser, "spoken") == "No prediction"
    with pytest.raises(PageFailedError, match="Self-test"), open_page(broken, DEVICE, 30.0):
        pass


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_a_changed_file_runs_nothing(page: Path, tmp_path: Path) -> None:
    # Protects the policy itself: a byte that is changed without renewing the hash stops the script, and the page says so.
    broken = tmp_path / "broken.html"
    broken.write_bytes(page.read_bytes().replace(b"const MODEL", b"const  MODEL"))
    with open_browser() as browser:
        browser.open(broken.as_uri())
        assert text_of(browser, "test").startswith("The model is not loaded")
    with pytest.raises(PageFailedError, match="runs no model"), open_page(broken, DEVICE, 30.0):
        pass


@pytest.mark.slow
@needs_compiler
@needs_browser
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ("() => new Float32Array(5)", "returned 5 logits for 3 images"),
        ("() => { throw new Error('out of memory') }", "the page failed: Error: out of memory"),
        ("() => { for (;;); }", "did not finish in time"),
    ],
)
def test_a_page_that_misbehaves_fails(page: Path, images: np.ndarray, logits: str, message: str) -> None:
    # Protects against a program that stops, throws or hangs: each is a failed check, never a pass or a hang.
    with open_page(page, DEVICE, 2.0) as predictor:
        predictor.browser.evaluate(f"ready.then(page => {{ page.logits = {logits} }})")
        with pytest.raises(PageFailedError, match=re.escape(message)):
            predictor.logits(images[:3])


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_a_page_that_crashes_fails(page: Path) -> None:
    # Protects against a hang on a page whose process is gone.
    with open_page(page, DEVICE, 30.0) as predictor, pytest.raises(PageFailedError, match="crashed"):
        predictor.browser.send("Page.crash")
