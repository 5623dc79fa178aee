/** sRGB to OKLab (Ottosson 2020, "A perceptual color space for image processing"): the space in which the set's colours are told apart. */

const LINEAR = Float64Array.from({ length: 256 }, (_, byte) => {
  const v = byte / 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
});

/** Writes L (0..1), a and b of one sRGB byte triple to `out[at..at+2]`. */
export function writeOklab(r: number, g: number, b: number, out: Float32Array | Float64Array, at: number): void {
  const lr = LINEAR[r];
  const lg = LINEAR[g];
  const lb = LINEAR[b];
  const l = Math.cbrt(0.4122214708 * lr + 0.5363325363 * lg + 0.0514459929 * lb);
  const m = Math.cbrt(0.2119034982 * lr + 0.6806995451 * lg + 0.1073969566 * lb);
  const s = Math.cbrt(0.0883024619 * lr + 0.2817188376 * lg + 0.6299787005 * lb);
  out[at] = 0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s;
  out[at + 1] = 1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s;
  out[at + 2] = 0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s;
}

export type Rgb = readonly [red: number, green: number, blue: number];
export type Oklab = readonly [lightness: number, a: number, b: number];

/** One sRGB byte triple in OKLab. */
export function oklab(rgb: Rgb): Oklab {
  const out = new Float64Array(3);
  writeOklab(rgb[0], rgb[1], rgb[2], out, 0);
  return [out[0], out[1], out[2]];
}

/** Euclidean distance in OKLab. */
export function oklabDistance(x: Oklab, y: Oklab): number {
  return Math.hypot(x[0] - y[0], x[1] - y[1], x[2] - y[2]);
}
