import { shapeDistance } from './distance.js';
import type { Rgb } from './oklab.js';
import { BACKGROUND_RGB, COLOR_RGB } from './palette.js';
import type { Scene, ShapesObject } from './scene.js';

/** Stripes and dots are drawn in a darker shade of the object's own colour, so that the object stays one piece and keeps its colour's name. */
const SHADE = 0.62;
/** Pitch of stripes and dots, and their share of it, in units of the radius. */
const PITCH = 0.5;
const STRIPE_SHARE = 0.42;
const DOT_RADIUS = 0.15;

/**
 * Draws a scene as size*size*3 RGB bytes, row-major. One pixel of anti-aliasing from the signed distance,
 * blended in sRGB; only the pixels of each object's bounding square are visited.
 */
export function renderScene(scene: Scene, size: number): Uint8Array {
  const pixels = new Uint8Array(size * size * 3);
  const [r, g, b] = BACKGROUND_RGB[scene.background];
  for (let at = 0; at < pixels.length; at += 3) {
    pixels[at] = r;
    pixels[at + 1] = g;
    pixels[at + 2] = b;
  }
  for (const object of scene.objects) drawObject(pixels, size, object);
  return pixels;
}

function drawObject(pixels: Uint8Array, size: number, object: ShapesObject): void {
  const radius = object.radius * size;
  const cx = object.cx * size;
  const cy = object.cy * size;
  const cos = Math.cos(object.rotation) / radius;
  const sin = Math.sin(object.rotation) / radius;
  const color = COLOR_RGB[object.color];
  const shade: Rgb = [color[0] * SHADE, color[1] * SHADE, color[2] * SHADE];
  const left = Math.max(0, Math.floor(cx - radius - 1));
  const right = Math.min(size - 1, Math.ceil(cx + radius + 1));
  const top = Math.max(0, Math.floor(cy - radius - 1));
  const bottom = Math.min(size - 1, Math.ceil(cy + radius + 1));
  for (let py = top; py <= bottom; py++) {
    const dy = py + 0.5 - cy;
    for (let px = left; px <= right; px++) {
      const dx = px + 0.5 - cx;
      const x = dx * cos + dy * sin;
      const y = dy * cos - dx * sin;
      const coverage = 0.5 - shapeDistance(object.shape, x, y) * radius;
      if (coverage <= 0) continue;
      const alpha = Math.min(1, coverage);
      const dark = object.fill === 'solid' ? 0 : patternCoverage(object.fill, x, y, radius);
      const at = (py * size + px) * 3;
      for (let c = 0; c < 3; c++) {
        const ink = color[c] + (shade[c] - color[c]) * dark;
        pixels[at + c] = Math.round(pixels[at + c] + (ink - pixels[at + c]) * alpha);
      }
    }
  }
}

/** Share of the darker shade at a point of the object (0..1), with the same one pixel of anti-aliasing. */
function patternCoverage(fill: 'striped' | 'dotted', x: number, y: number, radius: number): number {
  const fromCenter = (v: number) => Math.abs(v / PITCH - Math.round(v / PITCH)) * PITCH;
  const distance =
    fill === 'striped'
      ? fromCenter((x + y) * Math.SQRT1_2) - (STRIPE_SHARE * PITCH) / 2
      : Math.hypot(fromCenter(x), fromCenter(y)) - DOT_RADIUS;
  return Math.min(1, Math.max(0, 0.5 - distance * radius));
}
