/** What a request may ask for, and the check of all of it before any work is done. */
import { randomInt } from 'node:crypto';
import { InfinityError, invalidArgument } from '../errors.js';
import type { Image } from '../io/image.js';
import type { Origin } from './origin.js';
import { chooseSize, type Size, type SizeChoice, type SizeRequest } from './sizes.js';

/** One value for all scales, or one for each. */
export type PerScale = number | readonly number[];

/** A scale has been drawn. */
export interface ScaleEvent {
  readonly type: 'scale';
  /** From 0. */
  readonly scale: number;
  /** Scales of a picture. */
  readonly of: number;
  /** Large requests are drawn in groups one after the other: this one, from 0, and how many there are. */
  readonly group: number;
  readonly groups: number;
}

export interface SamplingOptions extends SizeRequest {
  /** What to steer away from, instead of the learned "no text". Has an effect with guidance other than 1. */
  readonly negativePrompt?: string | undefined;
  /** 1 is none, larger follows the prompt more closely. Default: the checkpoint's. */
  readonly guidance?: PerScale | undefined;
  /** Temperature: below 1 takes the likelier bit more often. Default: the checkpoint's. */
  readonly tau?: PerScale | undefined;
  /** 1 always takes the likelier bit; 0, 2 and more change nothing, since a bit has two values. Default: the checkpoint's. */
  readonly topK?: number | undefined;
  /** The rarer value of a bit is dropped where it is no likelier than 1 - topP; 0 switches this off. Default: the checkpoint's. */
  readonly topP?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends SamplingOptions {
  /** Pictures of each prompt. Default 1. */
  readonly count?: number | undefined;
  /** Integer from 0 to 2^53 - 1, or one for each prompt. Drawn when left out, and returned with each picture. */
  readonly seed?: number | readonly number[] | undefined;
  /** Number of the first picture of each prompt; picture n of a seed is the same in whichever request it is drawn. Default 0. */
  readonly firstImage?: number | undefined;
  readonly onScale?: ((event: ScaleEvent) => void) | undefined;
}

export interface StreamOptions extends SamplingOptions {
  readonly seed?: number | undefined;
  readonly firstImage?: number | undefined;
  /** How many scales before the last carry a preview, evenly spread. Default 0. */
  readonly previews?: number | undefined;
}

export type StreamEvent =
  | (ScaleEvent & { readonly preview?: Image })
  | { readonly type: 'done'; readonly images: readonly Image[]; readonly milliseconds: number };

/** Settings of sampling that a checkpoint brings along. */
export interface SamplingDefaults {
  readonly guidance: PerScale;
  readonly tau: PerScale;
  readonly topK: number;
  readonly topP: number;
  readonly size: Size;
}

/** One picture of a request. */
export interface PictureRequest {
  readonly prompt: string;
  readonly seed: number;
  /** Which picture of that seed. */
  readonly image: number;
}

/** A checked request: everything decided. */
export interface Plan {
  readonly choice: SizeChoice;
  /** Prompt by prompt, then count. */
  readonly pictures: readonly PictureRequest[];
  readonly negativePrompt: string | undefined;
  /** One number for each scale. */
  readonly guidance: readonly number[];
  readonly tau: readonly number[];
  readonly topK: number;
  readonly topP: number;
  /** What is taken over from a picture; absent where pictures are drawn from their prompts alone. */
  readonly origin?: Origin;
}

const SAMPLING_OPTIONS = [
  ...['size', 'aspect', 'pixels', 'nearest', 'seed', 'firstImage'],
  ...['negativePrompt', 'guidance', 'tau', 'topK', 'topP', 'signal'],
];
export const GENERATE_OPTIONS: readonly string[] = [...SAMPLING_OPTIONS, 'count', 'onScale'];
export const STREAM_OPTIONS: readonly string[] = [...SAMPLING_OPTIONS, 'previews'];

const MAX_COUNT = 1024;
const MAX_PROMPTS = 4096;
const MAX_IMAGE = 2 ** 32 - 1;
/** Seeds that are drawn stay short enough to be read out and typed. */
const DRAWN_SEEDS = 2 ** 32;

/** Throws INVALID_ARGUMENT for an option, with what can always be done. */
export function invalidOption(
  name: string,
  expected: string,
  value: unknown,
  cure = `Correct ${name}, or leave it out.`,
): never {
  return invalidArgument(name, expected, value, cure);
}

/** @throws InfinityError INVALID_ARGUMENT for anything but an object with known keys, naming the first unknown one */
export function refuseUnknown(options: unknown, known: readonly string[], of: string): void {
  if (typeof options !== 'object' || options === null)
    invalidOption(`the options of ${of}`, 'an object', options, `Use some of ${known.join(', ')}.`);
  for (const name of Object.keys(options)) {
    if (!known.includes(name))
      invalidOption(`the options of ${of}`, 'a known option', name, `Use one of ${known.join(', ')}.`);
  }
}

/** @throws InfinityError INVALID_ARGUMENT unless it is an AbortSignal or absent */
export function checkSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) invalidOption('signal', 'an AbortSignal', signal);
}

/** @throws InfinityError INVALID_ARGUMENT unless it is a function or absent */
export function checkFunction(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'function') invalidOption(name, 'a function', value);
}

/** @throws InfinityError INVALID_ARGUMENT unless it is true or false */
export function checkBoolean(name: string, value: unknown): void {
  if (typeof value !== 'boolean') invalidOption(name, 'true or false', value);
}

export function checkInteger(name: string, value: number, from: number, to: number): number {
  if (!Number.isSafeInteger(value) || value < from || value > to)
    invalidOption(name, `an integer from ${from} to ${to}`, value);
  return value;
}

function checkPrompt(prompt: unknown, name: string): string {
  if (typeof prompt !== 'string') return invalidOption(name, 'a string', prompt, 'Say what to draw in a string.');
  if (prompt.trim() === '')
    throw new InfinityError('PROMPT_EMPTY', `Expected some text for ${name} but received ${JSON.stringify(prompt)}.`, {
      value: prompt,
      cure: 'Say what to draw, such as "a red circle above a blue square".',
    });
  return prompt;
}

function checkPrompts(prompt: unknown): string[] {
  if (!Array.isArray(prompt)) return [checkPrompt(prompt, 'the prompt')];
  if (prompt.length === 0 || prompt.length > MAX_PROMPTS)
    invalidOption(
      'the prompts',
      `1 to ${MAX_PROMPTS} prompts`,
      prompt.length,
      'Pass at least one, and many in several calls.',
    );
  return prompt.map((one, i) => checkPrompt(one, `prompt ${i + 1} of ${prompt.length}`));
}

/** A number for each scale. */
function perScale(
  name: string,
  value: PerScale,
  scales: number,
  expected: string,
  valid: (n: number) => boolean,
): number[] {
  const fits = (n: unknown): boolean => typeof n === 'number' && Number.isFinite(n) && valid(n);
  if (!Array.isArray(value)) {
    if (!fits(value)) invalidOption(name, expected, value);
    return new Array<number>(scales).fill(value as number);
  }
  if (value.length !== scales) invalidOption(name, `one number, or one for each of the ${scales} scales,`, value);
  for (const n of value) if (!fits(n)) invalidOption(name, `${expected} at each scale`, n);
  return [...value];
}

const isGuidance = (n: number): boolean => n >= 0;
const isTau = (n: number): boolean => n > 0;

function seedsOf(seed: GenerateOptions['seed'], prompts: number): number[] {
  if (seed === undefined) return Array.from({ length: prompts }, () => randomInt(DRAWN_SEEDS));
  const seeds = Array.isArray(seed) ? (seed as readonly number[]) : new Array<number>(prompts).fill(seed as number);
  if (seeds.length !== prompts) invalidOption('seed', `one seed, or one for each of the ${prompts} prompts,`, seed);
  return seeds.map((one) => checkInteger('seed', one, 0, Number.MAX_SAFE_INTEGER));
}

/**
 * Checks a whole request and decides what it leaves open.
 *
 * @throws InfinityError INVALID_ARGUMENT, PROMPT_EMPTY, UNSUPPORTED_SIZE
 */
export function planOf(
  prompt: string | readonly string[],
  options: GenerateOptions,
  sizes: readonly SizeChoice[],
  defaults: SamplingDefaults,
): Plan {
  const prompts = checkPrompts(prompt);
  checkSignal(options.signal);
  checkFunction('onScale', options.onScale);
  const count = checkInteger('count', options.count ?? 1, 1, MAX_COUNT);
  const first = checkInteger('firstImage', options.firstImage ?? 0, 0, MAX_IMAGE - count);
  const choice = chooseSize(sizes, defaults.size, options);
  const scales = choice.schedule.length;
  const seeds = seedsOf(options.seed, prompts.length);
  const { negativePrompt, guidance = defaults.guidance, tau = defaults.tau } = options;
  const { topK = defaults.topK, topP = defaults.topP } = options;
  if (negativePrompt !== undefined) checkPrompt(negativePrompt, 'negativePrompt');
  if (!(typeof topP === 'number' && topP >= 0 && topP <= 1)) invalidOption('topP', 'a number from 0 to 1', topP);
  return {
    choice,
    pictures: prompts.flatMap((text, p) =>
      Array.from({ length: count }, (_, j) => ({ prompt: text, seed: seeds[p]!, image: first + j })),
    ),
    negativePrompt,
    guidance: perScale('guidance', guidance, scales, 'a number from 0', isGuidance),
    tau: perScale('tau', tau, scales, 'a number above 0', isTau),
    topK: checkInteger('topK', topK, 0, Number.MAX_SAFE_INTEGER),
    topP,
  };
}

/** The scales, from 0, that carry a preview: `previews` of those before the last, evenly spread. */
export function previewScales(previews: number, scales: number): ReadonlySet<number> {
  checkInteger('previews', previews, 0, scales - 1);
  return new Set(Array.from({ length: previews }, (_, i) => Math.round(((i + 1) * scales) / (previews + 1)) - 1));
}

/**
 * Reads `generation_config.json`. Released settings hold where it is silent.
 *
 * @throws InfinityError CHECKPOINT_INVALID
 */
export function samplingDefaults(
  config: Readonly<Record<string, unknown>>,
  sizes: readonly SizeChoice[],
): SamplingDefaults {
  const { guidance = 3, tau = 1, top_k: topK = 900, top_p: topP = 0.97, size = sizes[0]!.size } = config;
  const defaults = { guidance, tau, topK, topP, size } as SamplingDefaults;
  try {
    planOf('.', { seed: 0, size: defaults.size }, sizes, defaults);
  } catch (cause) {
    if (!(cause instanceof InfinityError)) throw cause;
    throw new InfinityError('CHECKPOINT_INVALID', `generation_config.json cannot be used: ${cause.message}`, {
      value: cause.value,
      cure: 'Correct that entry, or leave it out.',
      cause,
    });
  }
  return defaults;
}
