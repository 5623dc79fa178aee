/**
 * Drawing pictures scale by scale: cached keys and values, guidance, one draw a bit.
 * Source: Infinity, infinity/models/infinity.py (autoregressive_infer_cfg).
 */
import { invalidArgument } from '../errors.js';
import type { Tap } from '../nn/module.js';
import type { DrawKey } from '../ops/bits.js';
import { Submission } from '../submission.js';
import type { Tensor } from '../tensor.js';
import type { KeptSums } from '../tokenizer/kept.js';
import { type ScaleSchedule, scaleTokens } from '../tokenizer/schedule.js';
import { type Drawing, SubmittedDrawing } from './drawing.js';
import type { DrawingValues } from './drawing_inputs.js';
import { Guidance, type PerScale, perScale } from './guidance.js';
import { type InfinityTransformer, MAX_SCALES } from './infinity.js';
import type { Recordings } from './recordings.js';
import type { DrawingForm, Step } from './scale_steps.js';
import type { TextFeatures } from './text.js';

/** One request: what to draw, and how. */
export interface SampleOptions {
  readonly text: TextFeatures;
  /** Prompts to guide away from, one a picture; by default the learned unconditional text. */
  readonly negative?: TextFeatures | undefined;
  readonly schedule: ScaleSchedule;
  /** Rows and columns that rotary positions are stretched to; by default from the config. */
  readonly finest?: readonly [h: number, w: number];
  /** What each picture's draws are keyed by; its place in the batch is not. */
  readonly images: readonly DrawKey[];
  /** Guidance strength, default 1 (none). Scales after the last guided one run no unconditional samples. */
  readonly guidance?: PerScale;
  /** Default [0], on the logits; see `Guidance`. */
  readonly guidanceLayers?: readonly number[];
  /** Temperature that divides the logits, default 1. */
  readonly tau?: PerScale;
  /** 0 leaves all values of a bit or codes of a token, 1 takes the likeliest one, k the k likeliest. Default 0. */
  readonly topK?: number;
  /** Values that are the least likely and hold at most 1 − topP of the probability are never drawn. Default 0: off. */
  readonly topP?: number;
  /** Bits u8 [B, L, D] of a scale, or [1, L, D] for all pictures: 0 and 1 replace the drawn ones, `FREE_BIT` leaves them. */
  readonly forced?: readonly (Uint8Array | undefined)[];
  /** Where the running sum is that of another picture, whatever the bits. */
  readonly kept?: KeptSums;
  /** Recorded uniform numbers [B, L, D] of a scale ([B, L, 1] for the softmax head); by default Philox. */
  readonly draws?: readonly (Float32Array | undefined)[];
  /** Where commands of earlier requests may be found and those of this one kept. */
  readonly recordings?: Recordings | undefined;
  readonly signal?: AbortSignal;
  /** Sees `input.sK`, `hidden.sK`, `logits.sK` (guided, divided by tau), `prob_of_0.sK`, `sampled_class.sK`. */
  readonly tap?: Tap;
}

/** One finished scale. Its tensors live until the next one is asked for; `retain` them to keep them. */
export interface ScaleEvent {
  readonly scale: number;
  readonly scales: number;
  /** u8 [B, L, D], in token layout. */
  readonly bits: Tensor;
  /** Sum of the codes so far at the finest latent grid, [B, H, W, d]: what the decoder takes. */
  readonly sum_BHWd: Tensor;
}

/** A scale whose commands are in the queue; `done` when they have run. */
interface Submitted {
  readonly step: Step;
  readonly done: Promise<void>;
}

const disposeStep = ({ bits, sum_BHWd, next_RLC }: Step): void => {
  for (const t of [bits, sum_BHWd, next_RLC]) t?.dispose();
};

/** @throws InfinityError INVALID_ARGUMENT */
function formOf({ config }: InfinityTransformer, options: SampleOptions): DrawingForm {
  const { text, schedule, finest, images, guidance = 1, guidanceLayers = [0], topK } = options;
  const K = schedule.length;
  if (images.length !== text.lens.length) invalidArgument('images', `${text.lens.length}, one a prompt`, images.length);
  if (K < 1 || K > MAX_SCALES || scaleTokens(schedule[0]!) !== 1)
    invalidArgument('schedule', `1 to ${MAX_SCALES} scales, the first of one token`, schedule);
  const strengths = perScale('guidance', guidance, K);
  return {
    schedule,
    finest,
    images: images.length,
    guidance: new Guidance(strengths, guidanceLayers, config.depth),
    topK,
  };
}

/** The drawing of a request: a recorded one where there may be. */
async function open(model: InfinityTransformer, options: SampleOptions, submission: Submission): Promise<Drawing> {
  const { text, negative, images, topP, forced, kept, draws, tap, recordings } = options;
  const form = formOf(model, options);
  const tau = perScale('tau', options.tau ?? 1, form.schedule.length, true);
  const choices = tau.map((tau, k) => ({ guidance: form.guidance.strengths[k]!, tau, topP }));
  const guided = form.guidance.rowsAt(0, form.images) > form.images;
  const rows = await submission.part(() => (guided ? model.text.guided(text, negative) : model.text.plain(text)));
  const values: DrawingValues = { text: rows, images, choices };
  const submitted = () => new SubmittedDrawing(model, form, values, { forced, kept, draws, tap, tau });
  try {
    const recorded = forced || kept || draws || tap ? null : await recordings?.take(form, values, submission);
    const drawing = recorded ?? (await submission.part(submitted));
    try {
      await drawing.begin(submission);
    } catch (error) {
      drawing.end();
      throw error;
    }
    return drawing;
  } finally {
    if (rows.kv_NCt !== text.kv_NCt) rows.kv_NCt.dispose();
  }
}

/**
 * Draws a batch of pictures, one event a scale. The device works on one scale while the previous one is handed out; leaving
 * the loop or aborting skips whatever has not run, and releases all memory.
 *
 * @throws InfinityError INVALID_ARGUMENT, PROMPT_EMPTY, PROMPT_TOO_LONG, OUT_OF_MEMORY; `signal.reason` after an abort
 */
export async function* sampleScales(
  model: InfinityTransformer,
  options: SampleOptions,
): AsyncGenerator<ScaleEvent, void, void> {
  const { signal, schedule } = options;
  signal?.throwIfAborted();
  const { device } = model;
  const token = device.createToken();
  const submission = new Submission(device, token);
  const cancel = () => submission.stop();
  signal?.addEventListener('abort', cancel, { once: true });
  const submitted: Submitted[] = [];
  let drawing: Drawing | undefined;
  try {
    const drawn = await open(model, options, submission);
    drawing = drawn;
    const submit = async (k: number): Promise<void> => {
      const step = await drawn.scale(k, submission);
      const done = device.withToken(token, () => device.sync());
      // An abort rejects every scale on the way, though only one of them is waited for.
      done.catch(() => undefined);
      submitted.push({ step, done });
    };
    await submit(0);
    for (let k = 0; k < schedule.length; k++) {
      if (k + 1 < schedule.length) await submit(k + 1);
      const [{ step, done }] = submitted as [Submitted];
      await done;
      signal?.throwIfAborted();
      yield { scale: k, scales: schedule.length, bits: step.bits, sum_BHWd: step.sum_BHWd };
      submitted.shift();
      disposeStep(step);
    }
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener('abort', cancel);
    submission.stop();
    for (const { step } of submitted) disposeStep(step);
    drawing?.end();
    token.release();
  }
}
