"use strict";
const BOX = 20; // MNIST: the longer side of a digit is 20 pixels,
const SIDE = 28; // and its centre of mass lies in the centre pixel of an image of 28.
const FAINT = 64; // Ink of less than a quarter does not count: it would widen the box by a blurred edge.

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
