/** Generation scale by scale: with the stored bits of earlier scales forced, then on its own. */
import type { Tensor } from '../../../lib/tensor.js';
import { mapOfTokens, tokensOfMap } from '../../../lib/tokenizer/bit_tokens.js';
import type { ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import type { PerScale } from '../../../lib/transformer/guidance.js';
import type { InfinityTransformer } from '../../../lib/transformer/infinity.js';
import { type SampleOptions, sampleScales } from '../../../lib/transformer/sampler.js';
import type { TextFeatures } from '../../../lib/transformer/text.js';
import { download, type HostArray } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';
import { expand, globMatches } from '../glob.js';
import { goldenMap, uploadBits } from './quantizer.js';
import { finestOf, loadTransformer, type TransformerFields, textFeatures } from './transformer_config.js';

export interface Replay {
  readonly mode: 'greedy' | 'sampled';
  readonly draws: string | null;
  readonly bits_from: string;
  readonly own_bits: string;
  readonly given_scales: number;
  readonly given_from: string | null;
  readonly compared_with_earlier_bits_forced: readonly string[];
  readonly compared_after_free_run: readonly string[];
  readonly features_forced_from?: string;
}

export interface SampleFields extends TransformerFields {
  readonly options: {
    readonly cfg_list: PerScale;
    readonly tau_list: PerScale;
    readonly top_k: number | null;
    readonly top_p: number | null;
    readonly cfg_insertion_layer: number | readonly number[];
  };
  readonly replay: Replay;
}

/** Stored bits of a scale, tokenizer layout, as the tokens [B, L, D] that the sampler takes. */
async function tokens(c: GoldenCase, name: string, patchify: boolean): Promise<Uint8Array> {
  using map = uploadBits(c, name);
  using rows = tokensOfMap(map, patchify);
  return (await download(rows)).data as Uint8Array;
}

/** Runs the sampler and gives what `compared` lists to the case. */
export class SampleRun {
  private readonly schedule: ScaleSchedule;
  private readonly patchify: boolean;

  constructor(
    private readonly c: GoldenCase,
    private readonly fields: SampleFields,
    private readonly model: InfinityTransformer,
  ) {
    this.schedule = fields.scale_schedule;
    this.patchify = model.config.apply_spatial_patchify;
    if (fields.replay.mode !== 'greedy' && fields.replay.mode !== 'sampled')
      throw new CaseError(`unknown replay mode ${String(fields.replay.mode)}`);
  }

  /** Pass 1: the stored bits of every scale go on, whatever was chosen. */
  async forced(text: TextFeatures, negative?: TextFeatures): Promise<void> {
    const { bits_from, compared_with_earlier_bits_forced: compared } = this.fields.replay;
    await this.pass(
      'forced',
      this.schedule.map(() => bits_from),
      compared,
      text,
      negative,
    );
  }

  /** Pass 2: own bits go on, except those that the case gives. */
  async free(text: TextFeatures, negative?: TextFeatures): Promise<void> {
    const { given_scales, given_from, compared_after_free_run: compared } = this.fields.replay;
    const given = this.schedule.map((_, k) => (k < given_scales ? given_from : null));
    await this.pass('free run', given, compared, text, negative);
  }

  private async pass(
    title: string,
    sources: readonly (string | null)[],
    compared: readonly string[],
    text: TextFeatures,
    negative?: TextFeatures,
  ): Promise<void> {
    const { c, fields } = this;
    const { replay } = fields;
    const give = (name: string, got: HostArray) => {
      if (compared.some((glob) => globMatches(glob, name))) c.give(name, got, title);
    };
    const forced: (Uint8Array | undefined)[] = [];
    for (const [k, source] of sources.entries())
      forced.push(source ? await tokens(c, expand(source, { k }), this.patchify) : undefined);
    const kept = new Map<string, Tensor>();
    const options = this.options(text, negative, forced);
    try {
      const tap: SampleOptions['tap'] = (name, value) => kept.set(name, value.retain());
      for await (const { scale: k, bits, sum_BHWd } of sampleScales(this.model, { ...options, tap })) {
        give(`summed_codes.s${k}`, goldenMap(await download(sum_BHWd)));
        if (k === this.schedule.length - 1) give('final_latent', goldenMap(await download(sum_BHWd)));
        const own = kept.get(`sampled_class.s${k}`);
        // Where the case gives the bits of a scale, those go on; elsewhere the own choice is what is compared.
        const used = k < replay.given_scales || !own ? bits : own;
        give(expand(replay.bits_from, { k }), await this.bitMap(used, k));
      }
      const own_bits = this.schedule.map((_, k) => expand(replay.own_bits, { k }));
      for (const [name, tensor] of kept) {
        const [, k] = /^sampled_class\.s(\d+)$/.exec(name) ?? [];
        const golden = k === undefined || replay.own_bits === replay.bits_from ? name : own_bits[Number(k)]!;
        give(golden, await download(tensor));
      }
    } finally {
      for (const tensor of kept.values()) tensor.dispose();
    }
  }

  /** Tokens [B, L, D] in tokenizer layout, [B, 1, h, w, d]. */
  private async bitMap(bits: Tensor, k: number): Promise<HostArray> {
    const [, h, w] = this.schedule[k]!;
    using map = mapOfTokens(bits, [h, w], this.patchify);
    return goldenMap(await download(map));
  }

  /** Scales whose bits are given may come without draws. */
  private draws(name: string, k: number): Float32Array | undefined {
    const { c, fields } = this;
    return c.has(name) || k >= fields.replay.given_scales ? Float32Array.from(c.numbers(name)) : undefined;
  }

  private options(
    text: TextFeatures,
    negative: TextFeatures | undefined,
    forced: SampleOptions['forced'],
  ): SampleOptions {
    const { fields } = this;
    const { replay, options } = fields;
    const recorded = replay.draws;
    return {
      text,
      negative,
      schedule: this.schedule,
      finest: finestOf(fields),
      images: text.lens.map((_, image) => ({ seed: 0, image })),
      guidance: options.cfg_list,
      guidanceLayers: [options.cfg_insertion_layer].flat(),
      tau: options.tau_list,
      topK: replay.mode === 'greedy' ? 1 : (options.top_k ?? undefined),
      topP: options.top_p ?? undefined,
      forced,
      draws: recorded ? this.schedule.map((_, k) => this.draws(expand(recorded, { k }), k)) : undefined,
    };
  }
}

export async function sample(c: GoldenCase): Promise<void> {
  const fields = c.fields<SampleFields>();
  using model = await loadTransformer(c);
  // As pictures are drawn.
  model.freeze('f32');
  const text = textFeatures(c);
  const negative = c.has('neg_kv_compact') ? textFeatures(c, 'neg_') : undefined;
  const run = new SampleRun(c, fields, model);
  await run.forced(text, negative);
  await run.free(text, negative);
  text.kv_NCt.dispose();
  negative?.kv_NCt.dispose();
}
