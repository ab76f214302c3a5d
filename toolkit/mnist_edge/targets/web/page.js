"use strict";
// MODEL is defined by the script before this one; see page.py.

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

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

let logitsOf = null; // null until the self-test has passed

/** Show the prediction of what is drawn; return it in words. */
function show() {
  const image = prepare(inkOf(paper), paper.width);
  showPrepared(image);
  const shares = image === null || logitsOf === null ? null : softmax(logitsOf(image), MODEL.temperature);
  const digit = shares === null ? -1 : indexOfLargest(shares);
  const text = image === null ? "Draw a digit" : shares === null ? "No prediction" : percent(shares[digit]);
  showPrediction(digit, shares, text);
  return digit < 0 ? text : `${digit}, ${text}`;
}

const drawn = show;

/** Announce the result once a stroke has ended, not while it is drawn. */
function strokeEnded() {
  element("spoken").textContent = show();
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
