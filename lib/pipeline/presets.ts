/**
 * Settings of generation that each released model was shown with. Source: Infinity, tools/run_infinity.py, tools/reproduce.py,
 * scripts/infer.sh and the notebooks; docs/checkpoints.md explains the columns.
 */
import type { PixelBudget } from '../tokenizer/schedule.js';
import { pixelSize, templateSchedule } from '../tokenizer/schedule.js';
import { type InfinityConfig, type InfinitySize, tokenBits } from '../transformer/config.js';
import { publishedSize } from '../transformer/infer_config.js';

export interface Preset {
  readonly size: InfinitySize;
  /** Bits of a token, which tell the tokenizer that the model was trained on. */
  readonly bits: number;
  /** Pixels that the weights were trained for; the square of that budget is the default size. */
  readonly pixels: PixelBudget;
  readonly guidance: number;
  readonly tau: number;
  readonly top_k: number;
  readonly top_p: number;
}

/** top_k and top_p are the defaults of the reference's generator, which no demo changes. */
const SAMPLER = { top_k: 900, top_p: 0.97 };

export const PRESETS = {
  'infinity-2b': { size: 'infinity_2b', bits: 32, pixels: '1M', guidance: 3, tau: 0.5, ...SAMPLER },
  'infinity-8b': { size: 'infinity_8b', bits: 56, pixels: '1M', guidance: 3, tau: 1, ...SAMPLER },
  'infinity-8b-512': { size: 'infinity_8b', bits: 56, pixels: '0.25M', guidance: 3, tau: 1, ...SAMPLER },
  // Hosted without settings of its own: those of the official evaluation script.
  'infinity-125m': { size: 'infinity_layer12', bits: 16, pixels: '0.06M', guidance: 4, tau: 1, ...SAMPLER },
} as const satisfies Readonly<Record<string, Preset>>;
export type PresetName = keyof typeof PRESETS;
export const PRESET_NAMES = Object.keys(PRESETS) as readonly PresetName[];

/**
 * The released model that a transformer is, by its shape and by what its path says of the resolution: the two 8B models differ
 * in nothing else.
 */
export function presetOf(config: InfinityConfig, path: string): PresetName | undefined {
  const size = publishedSize(config);
  const alike = PRESET_NAMES.filter((name) => PRESETS[name].size === size && PRESETS[name].bits === tokenBits(config));
  const resolutions = alike.filter((name) => PRESETS[name].pixels === '0.25M');
  const small = /512/.test(path) ? resolutions[0] : undefined;
  return small ?? alike.find((name) => !resolutions.includes(name)) ?? alike[0];
}

/** The `generation_config.json` of a released model. @param tokenPixels side in pixels of a token */
export function generationConfig(name: PresetName, tokenPixels: number): Readonly<Record<string, unknown>> {
  const { pixels, guidance, tau, top_k, top_p } = PRESETS[name];
  return { guidance, tau, top_k, top_p, size: pixelSize(templateSchedule(1, pixels), tokenPixels) };
}
