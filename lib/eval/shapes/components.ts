/** From a picture to its foreground pieces: background by majority, mask by distance, components by 8-neighbourhood. */

import { writeOklab } from '../../data/shapes/oklab.js';

const QUANTUM = 0.02;
const FOREGROUND_DISTANCE = 0.08;
/** Least area of a component, as a share of the canvas. */
const AREA_MIN = 0.004;

/** The picture in OKLab, three floats a pixel. */
export function toOklab(pixels: Uint8Array): Float32Array {
  const lab = new Float32Array(pixels.length);
  let last = -1;
  for (let at = 0; at < pixels.length; at += 3) {
    const color = (pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2];
    if (color === last) {
      lab[at] = lab[at - 3];
      lab[at + 1] = lab[at - 2];
      lab[at + 2] = lab[at - 1];
    } else {
      writeOklab(pixels[at], pixels[at + 1], pixels[at + 2], lab, at);
      last = color;
    }
  }
  return lab;
}

/** sRGB lies within L 0..1 and a, b -0.32..0.32: 51 x 33 x 33 cells of 0.02. */
const CELLS_AB = 33;
const CELLS = 51 * CELLS_AB * CELLS_AB;

/** Most frequent colour after quantisation to steps of 0.02: the mean of the pixels in that cell. Ties go to the lower cell. */
function backgroundOf(lab: Float32Array): [number, number, number] {
  const cells = new Int32Array(lab.length / 3);
  const counts = new Int32Array(CELLS);
  for (let i = 0, at = 0; i < cells.length; i++, at += 3) {
    const l = Math.round(lab[at] / QUANTUM);
    const a = Math.round(lab[at + 1] / QUANTUM) + (CELLS_AB >> 1);
    const b = Math.round(lab[at + 2] / QUANTUM) + (CELLS_AB >> 1);
    cells[i] = (l * CELLS_AB + a) * CELLS_AB + b;
    counts[cells[i]]++;
  }
  let winner = cells[0];
  for (const cell of cells)
    if (counts[cell] > counts[winner] || (counts[cell] === counts[winner] && cell < winner)) winner = cell;
  const sum: [number, number, number] = [0, 0, 0];
  for (let i = 0; i < cells.length; i++) {
    if (cells[i] !== winner) continue;
    for (let c = 0; c < 3; c++) sum[c] += lab[3 * i + c];
  }
  return [sum[0] / counts[winner], sum[1] / counts[winner], sum[2] / counts[winner]];
}

/** One byte a pixel: 1 where the colour is further than 0.08 from the background's. */
export function foregroundMask(lab: Float32Array): Uint8Array {
  const [l, a, b] = backgroundOf(lab);
  const mask = new Uint8Array(lab.length / 3);
  for (let i = 0, at = 0; i < mask.length; i++, at += 3) {
    const squared = (lab[at] - l) ** 2 + (lab[at + 1] - a) ** 2 + (lab[at + 2] - b) ** 2;
    mask[i] = squared > FOREGROUND_DISTANCE ** 2 ? 1 : 0;
  }
  return mask;
}

/** A connected piece of foreground: its pixels, and its mask within its bounding box (holes stay holes). */
export interface Component {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  readonly area: number;
  /** width*height bytes over the bounding box. */
  readonly mask: Uint8Array;
}

/** Components of the mask by 8-neighbourhood, without those smaller than 0.4 % of the canvas, in reading order. */
export function connectedComponents(mask: Uint8Array, width: number, height: number): Component[] {
  const seen = new Uint8Array(mask.length);
  const members = new Int32Array(mask.length);
  const found: Component[] = [];
  for (let start = 0; start < mask.length; start++) {
    if (mask[start] === 0 || seen[start] === 1) continue;
    const area = flood(mask, seen, members, start, width, height);
    if (area >= AREA_MIN * width * height) found.push(component(members.subarray(0, area), width));
  }
  return found;
}

/** Collects the piece that holds `start` into `members`; returns its size. */
function flood(
  mask: Uint8Array,
  seen: Uint8Array,
  members: Int32Array,
  start: number,
  width: number,
  height: number,
): number {
  let count = 1;
  members[0] = start;
  seen[start] = 1;
  for (let next = 0; next < count; next++) {
    const x = members[next] % width;
    const y = (members[next] - x) / width;
    for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny++) {
      for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx++) {
        const at = ny * width + nx;
        if (mask[at] === 0 || seen[at] === 1) continue;
        seen[at] = 1;
        members[count++] = at;
      }
    }
  }
  return count;
}

function component(members: Int32Array, canvasWidth: number): Component {
  let left = canvasWidth;
  let right = 0;
  let top = Number.POSITIVE_INFINITY;
  let bottom = 0;
  for (const at of members) {
    const x = at % canvasWidth;
    const y = (at - x) / canvasWidth;
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  const width = right - left + 1;
  const height = bottom - top + 1;
  const mask = new Uint8Array(width * height);
  for (const at of members) {
    const x = at % canvasWidth;
    mask[((at - x) / canvasWidth - top) * width + x - left] = 1;
  }
  return { left, top, width, height, area: members.length, mask };
}

/** The component's mask without its rim: pixels whose whole 3x3 neighbourhood belongs to it. */
export function eroded({ mask, width, height }: Component): Uint8Array {
  const out = new Uint8Array(mask.length);
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      let whole = 1;
      for (let dy = -1; dy <= 1; dy++) {
        const at = (y + dy) * width + x;
        whole &= mask[at - 1] & mask[at] & mask[at + 1];
      }
      out[y * width + x] = whole;
    }
  }
  return out;
}
