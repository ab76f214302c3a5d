"use strict";
// Sends drawings and images to the server that this page came from, and shows what its variants predict.

const WELCOME = "Draw or choose a digit";
const LARGEST_FILE = 32 * 2 ** 20; // bytes that the server reads
const MARGIN = 80; // white around a drawing: in a photo, what touches the edge is not part of the digit
const token = document.querySelector("meta[name=token]").content;

const photo = new Image();
photo.id = "photo";
photo.alt = "Your image";
photo.hidden = true;
photo.addEventListener("error", hidePhoto); // the server says what is wrong with it
paper.parentElement.append(photo);

let turn = 0; // counts what was drawn, chosen and cleared: only an answer to the newest is shown
let shown = 0; // the turn whose answer is shown
let queued = null; // the newest image that has not been sent
let sending = false;

function drawn() {} // an answer takes longer than a frame: the server is asked once a stroke has ended

function strokeEnded() {
  const mine = ++turn;
  hidePhoto();
  if (!inkOf(paper).some((alpha) => alpha > 0)) return showAnswer(null);
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [paper.width + 2 * MARGIN, paper.height + 2 * MARGIN];
  const white = sheet.getContext("2d");
  white.fillStyle = "#fff";
  white.fillRect(0, 0, sheet.width, sheet.height);
  white.drawImage(paper, MARGIN, MARGIN);
  sheet.toBlob((image) => ask(image, mine), "image/png");
}

/** Show an image in place of the drawing, and ask for its digit. */
function submit(image) {
  clear();
  const mine = ++turn;
  if (image.size > LARGEST_FILE) return showAnswer(failure("The image has more than 32 MiB"));
  photo.src = URL.createObjectURL(image);
  photo.hidden = false;
  ask(image, mine);
}

function hidePhoto() {
  URL.revokeObjectURL(photo.src);
  photo.hidden = true;
}

/** Send the newest image once the server has answered the one before. */
async function ask(image, mine) {
  if (mine !== turn) return;
  queued = { image, mine };
  if (sending) return;
  sending = true;
  document.querySelector(".result").classList.add("busy");
  while (queued !== null) {
    const next = queued;
    queued = null;
    const answer = await answerOf(next.image);
    if (next.mine === turn) showAnswer(answer);
  }
  document.querySelector(".result").classList.remove("busy");
  sending = false;
}

const failure = (reason) => ({ accepted: false, reason, prepared: null, variants: [] });

/** Return the server's answer; what goes wrong is a reason to show. */
async function answerOf(image) {
  try {
    const headers = { "X-Mnist-Edge-Token": token, "Content-Type": "application/octet-stream" };
    const response = await fetch("/answer", { method: "POST", headers, body: image });
    const content = await response.json();
    return response.ok ? content : failure(reasonOf(content.error));
  } catch {
    return failure("The server does not answer: is mnist-edge demo still running?");
  }
}

const reasonOf = ({ message, hint }) => (hint ? `${message}; ${hint}` : message);
const sentence = (text) => text[0].toUpperCase() + text.slice(1);

/** Show an answer, or the welcome where it is null; announce it. */
function showAnswer(answer) {
  const first = answer?.variants[0]?.prediction ?? null;
  const shares = first?.top.length ? new Array(10).fill(0) : null;
  first?.top.forEach(({ label, probability }) => { shares[label] = probability; });
  const digit = answer?.accepted ? Number(first.label) : -1;
  const text = answer === null ? WELCOME : answer.accepted ? percent(first.probability) : sentence(answer.reason);
  shown = turn;
  showPrepared(answer?.prepared ? Uint8Array.from(answer.prepared.flat()) : null);
  showPrediction(digit, shares, text);
  element("confidence").classList.toggle("refused", answer !== null && !answer.accepted);
  element("variants").replaceChildren(...(answer?.variants ?? []).map((variant) => variantRow(variant, first)));
  element("spoken").textContent = digit < 0 ? text : `${digit}, ${text}`;
}

/** Return a table row; a digit that differs from the first variant's is marked, and one that is not accepted is faint. */
function variantRow({ variant, prediction, latency_us }, first) {
  const row = document.createElement("tr");
  const cell = (text) => {
    row.insertCell().textContent = text;
    return row.lastChild;
  };
  cell(variant);
  if (prediction.label === null) {
    Object.assign(cell(prediction.reason), { colSpan: 3, className: "failed" });
    return row;
  }
  cell(prediction.accepted ? prediction.label : `${prediction.label}?`).title = prediction.reason;
  cell(percent(prediction.probability));
  cell(latency_us < 1000 ? `${latency_us.toFixed(0)} µs` : `${(latency_us / 1000).toFixed(1)} ms`);
  row.classList.toggle("other", prediction.label !== first.label);
  return row;
}

for (const name of ["file", "capture"]) {
  element(name).addEventListener("change", ({ target }) => {
    if (target.files.length) submit(target.files[0]);
    target.value = ""; // the same file can be chosen again
  });
}

document.addEventListener("paste", (event) => {
  const image = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (image) submit(image);
  else refuse("The clipboard holds no image");
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  paper.parentElement.classList.add("dropping");
});
document.addEventListener("dragleave", () => paper.parentElement.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  paper.parentElement.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) submit(file);
  else refuse("Drop a file: a dragged link is not loaded");
});

/** Say why there is nothing to answer. */
function refuse(reason) {
  clear();
  showAnswer(failure(reason));
}

const viewfinder = element("viewfinder"), video = element("video");

element("camera").addEventListener("click", async () => {
  // A telephone's own camera program focuses better; elsewhere such an input only opens a list of files.
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) return element("capture").click();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    viewfinder.showModal();
  } catch (error) {
    refuse(`The camera cannot be used: ${error.message || error.name}`);
  }
});
element("take").addEventListener("click", () => {
  const still = document.createElement("canvas");
  [still.width, still.height] = [video.videoWidth, video.videoHeight];
  still.getContext("2d").drawImage(video, 0, 0);
  still.toBlob((image) => { if (image) submit(image); }, "image/jpeg", 0.95);
  viewfinder.close();
});
element("cancel").addEventListener("click", () => viewfinder.close());
viewfinder.addEventListener("close", () => {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
});

showAnswer(null);
