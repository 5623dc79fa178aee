import { type Oklab, oklab, oklabDistance, type Rgb } from './oklab.js';

/** Eight object colours. The nearest two (red and orange) are 0.18 apart in OKLab. */
export const COLORS = ['red', 'green', 'blue', 'yellow', 'orange', 'purple', 'cyan', 'pink'] as const;
export type ColorName = (typeof COLORS)[number];

/** Four neutral backgrounds, each at least 0.16 from every object colour in OKLab. */
export const BACKGROUNDS = ['white', 'grey', 'sand', 'black'] as const;
export type BackgroundName = (typeof BACKGROUNDS)[number];

export const COLOR_RGB: Readonly<Record<ColorName, Rgb>> = {
  red: [214, 24, 32],
  green: [30, 156, 54],
  blue: [28, 72, 222],
  yellow: [252, 222, 16],
  orange: [242, 124, 8],
  purple: [134, 34, 152],
  cyan: [36, 210, 230],
  pink: [252, 142, 204],
};

export const BACKGROUND_RGB: Readonly<Record<BackgroundName, Rgb>> = {
  white: [245, 245, 243],
  grey: [130, 138, 150],
  sand: [210, 192, 162],
  black: [24, 24, 28],
};

const COLOR_OKLAB: readonly (readonly [ColorName, Oklab])[] = COLORS.map((name) => [name, oklab(COLOR_RGB[name])]);

/** Nearest object colour in OKLab and its distance. */
export function nearestColor(lab: Oklab): { color: ColorName; distance: number } {
  let color: ColorName = COLORS[0];
  let distance = Number.POSITIVE_INFINITY;
  for (const [name, reference] of COLOR_OKLAB) {
    const d = oklabDistance(lab, reference);
    if (d < distance) {
      color = name;
      distance = d;
    }
  }
  return { color, distance };
}
