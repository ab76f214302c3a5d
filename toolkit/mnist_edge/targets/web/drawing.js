"use strict";
// The drawing area. The page defines drawn(), called once a frame while ink is added, and strokeEnded(), called once a
// stroke has ended or the area was cleared.

const STROKE = 40; // Of a canvas of 560: 2 pixels once a digit of usual height is scaled, as pens left in MNIST.
const STEP = 14;

const element = (id) => document.getElementById(id);

const paper = element("paper"), pen = element("pen");
const context = paper.getContext("2d", { willReadFrequently: true });
context.lineWidth = STROKE;
context.lineCap = context.lineJoin = "round";

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

/** Report at most once a frame: a pen reports more often than a screen shows. */
function drawnSoon() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; drawn(); });
  waiting = true;
}

function endStroke() {
  last = null;
  strokeEnded();
}

function stroke(x, y) {
  const from = last ?? { x, y };
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(x, y); // a line of no length is a dot
  context.stroke();
  last = { x, y };
  drawnSoon();
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
