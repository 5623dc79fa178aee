/**
 * Drawing pictures scale by scale: cached keys and values, guidance, one draw a bit.
 * Source: Infinity, infinity/models/infinity.py (autoregressive_infer_cfg).
 */
import { invalidArgument } from '../errors.js';
import type { Tap } from '../nn/module.js';
import { drawKeys, type UniformSource } from '../ops/bits.js';
import { add, scale } from '../ops/elementwise.js';
import { statistic } from '../ops/run.js';
import { repeat0 } from '../ops/shape.js';
import { Submission } from '../submission.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import { addCodes, codesOfTokens, nextInput, tokensOfMap } from '../tokenizer/bit_tokens.js';
import { forceBits, type KeptSums, keepSum } from '../tokenizer/kept.js';
import { finestGrid, patchifySchedule, type ScaleSchedule, scaleOffsets, scaleTokens } from '../tokenizer/schedule.js';
import { BitHead } from './bit_head.js';
import { type Conditions, conditionsOf, firstSamples, tensorsOf } from './conditions.js';
import { conditional, Guidance, type PerScale, perScale, unconditional } from './guidance.js';
import { type InfinityTransformer, MAX_SCALES } from './infinity.js';
import { KvCache, kvExtents } from './kv_cache.js';
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
  readonly images: readonly { readonly seed: number | bigint; readonly image: number }[];
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

interface Step {
  readonly bits: Tensor;
  readonly sum_BHWd: Tensor;
  /** Residual stream that enters the next scale. */
  readonly next_RLC: Tensor | undefined;
}

/** A scale whose commands are in the queue; `done` when they have run. */
interface Submitted {
  readonly step: Step;
  readonly done: Promise<void>;
}

const disposeAll = ({ bits, sum_BHWd, next_RLC }: Step): void => {
  for (const t of [bits, sum_BHWd, next_RLC]) t?.dispose();
};

/** One request: all of its device memory and nothing else. */
class Sampler {
  private readonly B: number;
  private readonly guidance: Guidance;
  private readonly tau: readonly number[];
  /** Grids of the tokenizer's latents. */
  private readonly grids: ScaleSchedule;
  private readonly offsets: readonly number[];
  private readonly owned: { dispose(): void }[] = [];
  private readonly all: Conditions;
  private readonly own: Conditions;
  private readonly cache: KvCache;
  private readonly keys: Tensor;
  private readonly rope: Tensor;
  private readonly start_RLC: Tensor;

  constructor(
    private readonly model: InfinityTransformer,
    private readonly options: SampleOptions,
    private readonly submission: Submission,
  ) {
    const { text, negative, schedule, images, guidance = 1, guidanceLayers = [0], tau = 1 } = options;
    const { config, device, dtype } = model;
    const K = schedule.length;
    this.B = images.length;
    if (this.B !== text.lens.length) invalidArgument('images', `${text.lens.length}, one a prompt`, images.length);
    if (K < 1 || K > MAX_SCALES || scaleTokens(schedule[0]!) !== 1)
      invalidArgument('schedule', `1 to ${MAX_SCALES} scales, the first of one token`, schedule);
    this.guidance = new Guidance(perScale('guidance', guidance, K), guidanceLayers, config.depth);
    this.tau = perScale('tau', tau, K, true);
    this.grids = config.apply_spatial_patchify ? patchifySchedule(schedule) : schedule;
    this.offsets = scaleOffsets(schedule);
    const rows = this.guidance.rowsAt(0, this.B);
    this.rope = model.rope(schedule, options.finest).retain();
    this.owned.push(this.rope);
    try {
      const made = unscoped(() =>
        scope(() => {
          const run = rows > this.B ? model.text.guided(text, negative) : model.text.plain(text);
          const made = conditionsOf(model, run);
          return { ...made, own: firstSamples(made.all, this.B), keys: drawKeys(images, device) };
        }),
      );
      this.all = made.all;
      this.own = made.own;
      this.start_RLC = made.start_R1C;
      this.keys = made.keys;
      this.owned.push(...tensorsOf(this.all), ...tensorsOf(this.own), this.start_RLC, this.keys);
      this.cache = new KvCache({ ...kvExtents(config, schedule), rows }, { device, dtype });
      this.owned.push(this.cache);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Submits scale k, a block at a time. */
  async step(k: number, before: Step | undefined): Promise<Step> {
    const { model, options, submission } = this;
    const start = this.offsets[k]!;
    const lvl_1C = await submission.part(() => model.levelEmbed([k]));
    const stream: Tensor[] = [];
    try {
      let x_RLC = before?.next_RLC ?? this.start_RLC;
      for (const [i, block] of model.blocks.entries()) {
        const entered = x_RLC;
        x_RLC = await submission.part(() => {
          const { blocks, textRange } = entered.shape[0] === this.B ? this.own : this.all;
          const memory = this.cache.memory(i, start);
          const x = model.addsLevelBefore(i) ? add(entered, lvl_1C) : entered;
          const ctx = { rope: this.rope, ropeStart: start, memory, textRange };
          return this.guidance.afterBlock(block.forward(x, blocks[i]!, ctx), i, k, this.B);
        });
        stream.pop()?.dispose();
        stream.push(x_RLC);
      }
      return await submission.part(() => {
        const bits = this.force(this.classify(x_RLC, k), k);
        const drawn_BHWd = this.addCodes(bits, k, before?.sum_BHWd);
        const sum_BHWd = options.kept ? keepSum(drawn_BHWd, options.kept, k) : drawn_BHWd;
        return {
          bits,
          sum_BHWd,
          next_RLC: k + 1 < options.schedule.length ? this.nextInput(sum_BHWd, k + 1) : undefined,
        };
      });
    } finally {
      for (const t of [lvl_1C, ...stream]) t.dispose();
    }
  }

  /** Bits of scale k from what the last block returned. */
  private classify(x_RLC: Tensor, k: number): Tensor {
    const { model, B, guidance } = this;
    const both = guidance.guidesLogits(k);
    const hidden = both ? x_RLC : conditional(x_RLC, B);
    this.options.tap?.(`hidden.s${k}`, hidden);
    const head = hidden.shape[0] === B ? this.own.head : this.all.head;
    return this.draw(model.head.normalize(hidden, head), k, both);
  }

  /** Bits of scale k from the classifier's input; `both` when its second half is unconditional. */
  private draw(h_RLC: Tensor, k: number, both: boolean): Tensor {
    const { model, options, B, guidance } = this;
    const { topK, topP, tap } = options;
    const choice = { guidance: guidance.strengths[k]!, tau: this.tau[k]!, topK, topP, draws: this.draws(k) };
    const { head } = model;
    if (head instanceof BitHead && head.samples && !tap) return head.sample(h_RLC, { images: B, ...choice }).bits;
    const logits = head.classify(h_RLC);
    if (tap) tap(`logits.s${k}`, scale(both ? guidance.mix(logits, k, B) : logits, 1 / this.tau[k]!));
    const { bits, seen } = head.choose(conditional(logits, B), both ? unconditional(logits, B) : null, choice);
    if (tap) for (const [name, tensor] of Object.entries(seen)) tap(`${name}.s${k}`, tensor);
    return bits;
  }

  /** Sum of the codes up to scale k, at the finest grid. */
  private addCodes(bits: Tensor, k: number, sum_BHWd: Tensor | undefined): Tensor {
    const { model, options } = this;
    const { vae_embed_dim: d, apply_spatial_patchify: patchify } = model.config;
    const [, h, w] = options.schedule[k]!;
    const codes_Bhwd = codesOfTokens(bits, [h, w], { d, patchify, dtype: statistic(model) });
    return addCodes(sum_BHWd ?? null, codes_Bhwd, finestGrid(this.grids));
  }

  private nextInput(sum_BHWd: Tensor, k: number): Tensor {
    const { model, B } = this;
    const [, h, w] = this.grids[k]!;
    const x_BLD = tokensOfMap(nextInput(sum_BHWd, [h, w]), model.config.apply_spatial_patchify);
    this.options.tap?.(`input.s${k}`, x_BLD);
    const x_BLC = model.wordEmbed(x_BLD);
    return this.guidance.rowsAt(k, B) > B ? repeat0(x_BLC, 2) : x_BLC;
  }

  private draws(k: number): UniformSource {
    const recorded = this.options.draws?.[k];
    if (!recorded) return { keys: this.keys, scale: k };
    const { head, device } = this.model;
    const shape = [this.B, scaleTokens(this.options.schedule[k]!), head.drawsPerToken];
    return Tensor.from(recorded, shape, statistic(this.model), device);
  }

  private force(drawn: Tensor, k: number): Tensor {
    const bits = this.options.forced?.[k];
    return bits ? forceBits(drawn, bits) : drawn;
  }

  dispose(): void {
    for (const resource of this.owned.splice(0)) resource.dispose();
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
  let sampler: Sampler | undefined;
  try {
    const request = device.withToken(token, () => new Sampler(model, options, submission));
    sampler = request;
    const submit = async (k: number): Promise<void> => {
      const step = await request.step(k, submitted.at(-1)?.step);
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
      disposeAll(step);
    }
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener('abort', cancel);
    submission.stop();
    for (const { step } of submitted) disposeAll(step);
    sampler?.dispose();
    token.release();
  }
}
