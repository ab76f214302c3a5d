"use strict";
// The prediction: digit, probability, model input and a bar for each class.

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Show the image that the model receives, Uint8Array(784), or none where it is null. */
function showPrepared(image) {
  const small = new ImageData(28, 28);
  if (image !== null) image.forEach((value, i) => { small.data[i * 4 + 3] = value; });
  element("prepared").getContext("2d", { willReadFrequently: true }).putImageData(small, 0, 0);
}

/** Show a digit (-1 for none), the probabilities of the ten (or null), and a text. */
function showPrediction(digit, shares, text) {
  element("digit").textContent = digit < 0 ? "–" : digit;
  element("confidence").textContent = text;
  [...element("bars").children].forEach((row, i) => {
    row.className = i === digit ? "top" : "";
    row.querySelector("i").style.width = shares === null ? "0" : `${100 * shares[i]}%`;
    row.querySelector("b").textContent = shares === null ? "" : percent(shares[i]);
  });
}

for (let i = 0; i < 10; i++) {
  const row = document.createElement("li");
  row.append(String(i), document.createElement("span"), document.createElement("b"));
  row.querySelector("span").append(document.createElement("i"));
  element("bars").append(row);
}
