"use strict";
// MODEL is defined by the script before this one; see page.py.

const BOX = 20; // MNIST: the longer side of a digit is 20 pixels,
const SIDE = 28; // and its centre of mass lies in the centre pixel of an image of 28.
const FAINT = 64; // Ink of less than a quarter does not count: it would widen the box by a blurred edge.
const STROKE = 40; // Of a canvas of 560: 2 pixels once a digit of usual height is scaled, as pens left in MNIST.
const STEP = 14;

const element = (id) => document.getElementById(id);
const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/** Return the share of each cell of an axis that lies in each of `count` intervals of length `scale`. */
function coverage(count, start, scale, cells) {
  const rows = [];
  for (let i = 0; i < count; i++) {
    const low = start + i * scale, high = low + scale;
    const row = [];
    for (let k = Math.max(0, Math.floor(low)); k < Math.min(cells, Math.ceil(high)); k++) {
      row.push([k, (Math.min(high, k + 1) - Math.max(low, k)) / scale]);
    }
    rows.push(row);
  }
  return rows;
}

/**
 * Prepare a drawing as MNIST was: the box around the ink is scaled to 20 pixels by averaging areas, and moved by whole
 * pixels until the centre of mass lies in the centre pixel of 28 x 28 (LeCun et al., "Gradient-based learning applied to
 * document recognition", 1998, section III.A).
 * ink: Uint8Array of side * side, 255 where there is ink. Returns Uint8Array(784), or null where there is no ink.
 */
function prepare(ink, side) {
  let left = side, right = -1, top = side, bottom = -1;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      if (ink[y * side + x] >= FAINT) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = y;
      }
    }
  }
  if (right < 0) return null;
  const scale = Math.max(right - left + 1, bottom - top + 1) / BOX;
  const columns = coverage(BOX, left, scale, right + 1), rows = coverage(BOX, top, scale, bottom + 1);
  const small = new Float64Array(BOX * BOX);
  let mass = 0, sumX = 0, sumY = 0;
  for (let i = 0; i < BOX; i++) {
    for (let j = 0; j < BOX; j++) {
      let value = 0;
      for (const [y, height] of rows[i]) {
        for (const [x, width] of columns[j]) value += ink[y * side + x] * height * width;
      }
      small[i * BOX + j] = value;
      mass += value;
      sumX += value * j;
      sumY += value * i;
    }
  }
  const moveX = Math.round(SIDE / 2 - sumX / mass), moveY = Math.round(SIDE / 2 - sumY / mass);
  const image = new Uint8Array(SIDE * SIDE);
  for (let i = 0; i < BOX; i++) {
    for (let j = 0; j < BOX; j++) {
      const y = i + moveY, x = j + moveX;
      if (y >= 0 && y < SIDE && x >= 0 && x < SIDE) image[y * SIDE + x] = Math.round(small[i * BOX + j]);
    }
  }
  return image;
}

function softmax(logits, temperature) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

const indexOfLargest = (values) => values.indexOf(Math.max(...values));

/** Compile the model; return a function from images, Uint8Array(n * 784), to logits, Float32Array(n * 10). */
async function loadModel() {
  const { instance } = await WebAssembly.instantiate(bytesOf(MODEL.wasm));
  const { memory, image, predict } = instance.exports;
  const input = new Uint8Array(memory.buffer, image(), SIDE * SIDE);
  return (images) => {
    const logits = new Float32Array((images.length / input.length) * 10);
    for (let i = 0; i * input.length < images.length; i++) {
      input.set(images.subarray(i * input.length, (i + 1) * input.length));
      logits.set(new Float32Array(memory.buffer, predict(), 10), i * 10);
    }
    return logits;
  };
}

/** Compare the logits of the golden images with those of the export; return {passed, text}. */
function selfTest(logitsOf) {
  const images = bytesOf(MODEL.images), expected = new Float32Array(bytesOf(MODEL.logits).buffer);
  const found = logitsOf(images);
  const count = images.length / (SIDE * SIDE);
  let equal = 0, largest = 0;
  for (let i = 0; i < count; i++) {
    const rows = [found, expected].map((logits) => logits.slice(i * 10, i * 10 + 10));
    const size = Math.max(1, ...rows[1].map(Math.abs));
    const errors = rows[1].map((logit, j) => Math.abs(logit - rows[0][j]));
    // Negated, so that NaN is a failure.
    const close = !errors.some((error) => !(error <= MODEL.tolerance * size));
    if (close && indexOfLargest(rows[0]) === indexOfLargest(rows[1])) equal++;
    largest = Math.max(largest, ...errors);
  }
  const passed = count > 0 && equal === count && found.length === expected.length;
  const detail = MODEL.tolerance === 0 ? "logits equal" : `largest error ${largest.toExponential(1)}`;
  return { passed, text: `Self-test: ${equal} of ${count} images${passed ? `, ${detail}` : " agree: no predictions"}` };
}

const paper = element("paper"), pen = element("pen");
const context = paper.getContext("2d", { willReadFrequently: true });
context.lineWidth = STROKE;
context.lineCap = context.lineJoin = "round";

let logitsOf = null; // null until the self-test has passed
let pointer = null; // the pointer that draws; further fingers are ignored
let last = null; // where the stroke is
let key = { x: 280, y: 140, down: false }; // the pen of the keyboard
let waiting = false;

/** Return the ink on the canvas, Uint8Array of width * height. */
function inkOf(canvas) {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const ink = new Uint8Array(pixels.length / 4);
  for (let i = 0; i < ink.length; i++) ink[i] = pixels[i * 4 + 3];
  return ink;
}

function show() {
  waiting = false;
  const image = prepare(inkOf(paper), paper.width);
  const small = new ImageData(SIDE, SIDE);
  if (image !== null) image.forEach((value, i) => { small.data[i * 4 + 3] = value; });
  element("prepared").getContext("2d").putImageData(small, 0, 0);
  const shares = image === null || logitsOf === null ? null : softmax(logitsOf(image), MODEL.temperature);
  const digit = shares === null ? -1 : indexOfLargest(shares);
  const text = image === null ? "Draw a digit" : shares === null ? "No prediction" : percent(shares[digit]);
  element("digit").textContent = digit < 0 ? "–" : digit;
  element("confidence").textContent = text;
  [...element("bars").children].forEach((row, i) => {
    row.className = i === digit ? "top" : "";
    row.querySelector("i").style.width = shares === null ? "0" : `${100 * shares[i]}%`;
    row.querySelector("b").textContent = shares === null ? "" : percent(shares[i]);
  });
  return digit < 0 ? text : `${digit}, ${text}`;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Draw at most once a frame: a pen reports more often than a screen shows. */
function showSoon() {
  if (!waiting) requestAnimationFrame(show);
  waiting = true;
}

/** Announce the result once a stroke has ended, not while it is drawn. */
function endStroke() {
  last = null;
  element("spoken").textContent = show();
}

function stroke(x, y) {
  const from = last ?? { x, y };
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(x, y); // a line of no length is a dot
  context.stroke();
  last = { x, y };
  showSoon();
}

function clear() {
  context.clearRect(0, 0, paper.width, paper.height);
  key.down = false;
  showPen();
  endStroke();
}

function strokeTo(event) {
  const box = paper.getBoundingClientRect();
  stroke((event.clientX - box.left) * paper.width / box.width, (event.clientY - box.top) * paper.height / box.height);
}

paper.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  pen.hidden = true;
  last = null;
  strokeTo(event);
});
paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const passed = event.getCoalescedEvents();
  (passed.length ? passed : [event]).forEach(strokeTo);
});
for (const name of ["pointerup", "pointercancel"]) {
  paper.addEventListener(name, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    endStroke();
  });
}

function showPen() {
  pen.style.left = `${100 * key.x / paper.width}%`;
  pen.style.top = `${100 * key.y / paper.height}%`;
  pen.className = key.down ? "down" : "";
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
paper.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || pointer !== null) return;
  const move = MOVES[event.key];
  if (move) {
    const step = event.shiftKey ? 3 * STEP : STEP;
    if (key.down) last = { x: key.x, y: key.y };
    key.x = Math.min(Math.max(key.x + move[0] * step, 0), paper.width);
    key.y = Math.min(Math.max(key.y + move[1] * step, 0), paper.height);
    if (key.down) stroke(key.x, key.y);
  } else if (event.key === " ") {
    key.down = !key.down;
    if (key.down) stroke(key.x, key.y);
    else endStroke();
  } else if (event.key === "Escape" || event.key === "Delete") {
    clear();
  } else {
    return;
  }
  event.preventDefault();
  pen.hidden = false;
  showPen();
});
paper.addEventListener("focus", () => { pen.hidden = !paper.matches(":focus-visible"); showPen(); });
paper.addEventListener("blur", () => { pen.hidden = true; });
element("clear").addEventListener("click", clear);

for (let i = 0; i < 10; i++) {
  const row = document.createElement("li");
  row.append(String(i), document.createElement("span"), document.createElement("b"));
  row.querySelector("span").append(document.createElement("i"));
  element("bars").append(row);
}
element("model").textContent = MODEL.description;

/** For programs: resolves to {passed, text, logits} once the self-test has run. */
globalThis.ready = loadModel().then((logits) => {
  const result = selfTest(logits);
  if (result.passed) logitsOf = logits;
  return { ...result, logits: result.passed ? logits : null };
}, (error) => ({ passed: false, text: `The model does not run here: ${error.message}`, logits: null })).then((result) => {
  element("test").textContent = result.text;
  element("test").className = result.passed ? "passed" : "";
  show();
  return result;
});
