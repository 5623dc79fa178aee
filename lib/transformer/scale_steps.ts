/**
 * The commands of a drawing: what comes before the first scale, then scale by scale with cached keys and values, guidance, and
 * one draw a bit. Source: Infinity, infinity/models/infinity.py (autoregressive_infer_cfg).
 */
import type { Tap } from '../nn/module.js';
import { disposeStream, type Stream } from '../nn/stream.js';
import type { UniformSource } from '../ops/bits.js';
import { add, scale } from '../ops/elementwise.js';
import { statistic } from '../ops/run.js';
import { repeat0 } from '../ops/shape.js';
import type { Submission } from '../submission.js';
import { Tensor } from '../tensor.js';
import { addCodes, codesOfTokens, nextInput, tokensOfMap } from '../tokenizer/bit_tokens.js';
import { forceBits, type KeptSums, keepSum } from '../tokenizer/kept.js';
import { finestGrid, patchifySchedule, type ScaleSchedule, scaleOffsets, scaleTokens } from '../tokenizer/schedule.js';
import { BitHead } from './bit_head.js';
import { type Conditions, conditionsOf, firstSamples, tensorsOf } from './conditions.js';
import type { DrawingInputs } from './drawing_inputs.js';
import { conditional, type Guidance, unconditional } from './guidance.js';
import type { InfinityTransformer } from './infinity.js';
import { KvCache, kvExtents } from './kv_cache.js';

/** What the commands of a drawing depend on, besides the network and the shapes of its inputs. */
export interface DrawingForm {
  readonly schedule: ScaleSchedule;
  readonly finest?: readonly [h: number, w: number] | undefined;
  /** Pictures. */
  readonly images: number;
  readonly guidance: Guidance;
  readonly topK?: number | undefined;
}

/** What some requests want besides, at the cost of commands of their own. */
export interface Interventions {
  readonly forced?: readonly (Uint8Array | undefined)[] | undefined;
  readonly kept?: KeptSums | undefined;
  readonly draws?: readonly (Float32Array | undefined)[] | undefined;
  readonly tap?: Tap | undefined;
  /** For the tap. */
  readonly tau: readonly number[];
}

/** What a scale leaves. */
export interface Step {
  /** u8 [B, L, D] */
  readonly bits: Tensor;
  readonly sum_BHWd: Tensor;
  /** Residual stream that enters the next scale. */
  readonly next_RLC: Tensor | undefined;
}

/** A drawing: all of its device memory but the inputs and what scales leave. */
export class ScaleSteps {
  /** Grids of the tokenizer's latents. */
  private readonly grids: ScaleSchedule;
  private readonly offsets: readonly number[];
  private readonly owned: { dispose(): void }[] = [];
  private readonly cache: KvCache;
  private readonly rope: Tensor;
  private made: { readonly all: Conditions; readonly own: Conditions; readonly start_R1C: Tensor } | undefined;

  constructor(
    private readonly model: InfinityTransformer,
    private readonly form: DrawingForm,
    private readonly inputs: DrawingInputs,
    private readonly interventions?: Interventions,
  ) {
    const { config, device, dtype } = model;
    const { schedule, finest, guidance, images } = form;
    this.grids = config.apply_spatial_patchify ? patchifySchedule(schedule) : schedule;
    this.offsets = scaleOffsets(schedule);
    this.rope = model.rope(schedule, finest).retain();
    this.owned.push(this.rope);
    try {
      const rows = guidance.rowsAt(0, images);
      this.cache = new KvCache({ ...kvExtents(config, schedule), rows }, { device, dtype });
      this.owned.push(this.cache);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Submits what all scales share: keys and values of the prompts, modulations, the first token. */
  async begin(submission: Submission): Promise<void> {
    const { model, inputs, form } = this;
    this.made = await submission.part(() => {
      const made = conditionsOf(model, inputs.text, inputs.textRange);
      return { ...made, own: firstSamples(made.all, form.images) };
    });
    this.owned.push(...tensorsOf(this.made.all), ...tensorsOf(this.made.own), this.made.start_R1C);
  }

  /** Submits scale k, a block at a time. */
  async scale(k: number, before: Step | undefined, submission: Submission): Promise<Step> {
    const { model, form, interventions } = this;
    const { all, own, start_R1C } = this.made!;
    const start = this.offsets[k]!;
    const { levels_KC } = this.inputs;
    const made: Stream[] = [];
    try {
      let stream: Stream = { x_BLC: before?.next_RLC ?? start_R1C };
      for (const [i, block] of model.blocks.entries()) {
        const entered = stream;
        stream = await submission.part(() => {
          const { blocks, textRange } = entered.x_BLC.shape[0] === form.images ? own : all;
          const memory = this.cache.memory(i, start);
          const level_1C = levels_KC.view([1, levels_KC.shape[1]!], k * levels_KC.shape[1]!);
          const x = model.addsLevelBefore(i) ? { x_BLC: add(entered.x_BLC, level_1C) } : entered;
          const ctx = { rope: this.rope, ropeStart: start, memory, textRange };
          const next = model.addsLevelBefore(i + 1) ? undefined : blocks[i + 1]?.folded?.sa;
          const y = block.forward(x, blocks[i]!, ctx, next);
          const x_RLC = form.guidance.afterBlock(y.x_BLC, i, k, form.images);
          return x_RLC === y.x_BLC ? y : { x_BLC: x_RLC };
        });
        for (const passed of made.splice(0)) disposeStream(passed);
        made.push(stream);
      }
      const { x_BLC: x_RLC } = stream;
      return await submission.part(() => {
        const bits = this.force(this.classify(x_RLC, k), k);
        const drawn_BHWd = this.addCodes(bits, k, before?.sum_BHWd);
        const sum_BHWd = interventions?.kept ? keepSum(drawn_BHWd, interventions.kept, k) : drawn_BHWd;
        return {
          bits,
          sum_BHWd,
          next_RLC: k + 1 < form.schedule.length ? this.nextInput(sum_BHWd, k + 1) : undefined,
        };
      });
    } finally {
      for (const passed of made) disposeStream(passed);
    }
  }

  /** Bits of scale k from what the last block returned. */
  private classify(x_RLC: Tensor, k: number): Tensor {
    const { model } = this;
    const { images: B, guidance } = this.form;
    const { all, own } = this.made!;
    const both = guidance.guidesLogits(k);
    const hidden = both ? x_RLC : conditional(x_RLC, B);
    this.interventions?.tap?.(`hidden.s${k}`, hidden);
    const head = hidden.shape[0] === B ? own.head : all.head;
    return this.draw(model.head.normalize(hidden, head), k, both);
  }

  /** Bits of scale k from the classifier's input; `both` when its second half is unconditional. */
  private draw(h_RLC: Tensor, k: number, both: boolean): Tensor {
    const { interventions } = this;
    const { images: B, guidance, topK } = this.form;
    const { head } = this.model;
    const choice = { choice: this.inputs.choices.view([3], 3 * k), topK, draws: this.draws(k) };
    if (head instanceof BitHead && head.samples && !interventions?.tap)
      return head.sample(h_RLC, { images: B, ...choice }).bits;
    const logits = head.classify(h_RLC);
    if (interventions?.tap) {
      const guided = both ? guidance.mix(logits, k, B) : logits;
      interventions.tap(`logits.s${k}`, scale(guided, 1 / interventions.tau[k]!));
    }
    const { bits, seen } = head.choose(conditional(logits, B), both ? unconditional(logits, B) : null, choice);
    for (const [name, tensor] of Object.entries(seen)) interventions?.tap?.(`${name}.s${k}`, tensor);
    return bits;
  }

  /** Sum of the codes up to scale k, at the finest grid. */
  private addCodes(bits: Tensor, k: number, sum_BHWd: Tensor | undefined): Tensor {
    const { model, form } = this;
    const { vae_embed_dim: d, apply_spatial_patchify: patchify } = model.config;
    const [, h, w] = form.schedule[k]!;
    const codes_Bhwd = codesOfTokens(bits, [h, w], { d, patchify, dtype: statistic(model) });
    return addCodes(sum_BHWd ?? null, codes_Bhwd, finestGrid(this.grids));
  }

  private nextInput(sum_BHWd: Tensor, k: number): Tensor {
    const { model, form } = this;
    const [, h, w] = this.grids[k]!;
    const x_BLD = tokensOfMap(nextInput(sum_BHWd, [h, w]), model.config.apply_spatial_patchify);
    this.interventions?.tap?.(`input.s${k}`, x_BLD);
    const x_BLC = model.wordEmbed(x_BLD);
    return form.guidance.rowsAt(k, form.images) > form.images ? repeat0(x_BLC, 2) : x_BLC;
  }

  private draws(k: number): UniformSource {
    const recorded = this.interventions?.draws?.[k];
    if (!recorded) return { keys: this.inputs.keys, scale: k };
    const { head, device } = this.model;
    const shape = [this.form.images, scaleTokens(this.form.schedule[k]!), head.drawsPerToken];
    return Tensor.from(recorded, shape, statistic(this.model), device);
  }

  private force(drawn: Tensor, k: number): Tensor {
    const bits = this.interventions?.forced?.[k];
    return bits ? forceBits(drawn, bits) : drawn;
  }

  dispose(): void {
    for (const resource of this.owned.splice(0)) resource.dispose();
  }
}
