/**
 * The transformer written a second time: one sample and one scale after the other, plain loops over doubles, after the published
 * description of Infinity (arXiv 2412.04431) and with all of its options. An oracle for combinations that no recorded case has.
 */
import { finestGrid, patchifySchedule, type ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import type { InfinityConfig } from '../../lib/transformer/config.js';

export type Rows = Float64Array[];
export type Weights = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: ArrayLike<number> }>;

export interface PlainRequest {
  /** Text rows of every prompt, and of what to guide away from; without the latter `cfg_uncond` in the prompt's length. */
  readonly prompts: readonly Rows[];
  readonly negatives?: readonly Rows[];
  readonly schedule: ScaleSchedule;
  readonly finest: readonly [number, number];
  /** Bits of every scale, [B][L_k][D]. */
  readonly bits: readonly (readonly Rows[])[];
  readonly guidance: readonly number[];
  readonly layers: readonly number[];
  readonly tau: readonly number[];
}

export interface PlainResult {
  /** Inputs of every scale before their norm, [K][B] rows of D; nothing for the first. */
  readonly inputs: readonly (readonly Rows[])[];
  /** Guided logits over tau, [K][B] rows of 2D. */
  readonly logits: readonly (readonly Rows[])[];
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const rowOf = (n: number, at: (i: number) => number): Float64Array => Float64Array.from(range(n), at);
const silu = (x: number): number => x / (1 + Math.exp(-x));
const gelu = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  range(a.length).reduce((s, i) => s + a[i]! * b[i]!, 0);
const each = (rows: Rows, f: (row: Float64Array, i: number) => Float64Array): Rows => rows.map(f);

function softmaxMix(scores: readonly number[], values: Rows): Float64Array {
  const largest = Math.max(...scores);
  const e = scores.map((s) => Math.exp(s - largest));
  const sum = e.reduce((a, b) => a + b, 0);
  return rowOf(values[0]!.length, (c) => e.reduce((s, p, j) => s + (p / sum) * values[j]![c]!, 0));
}

/** Half-pixel centres, clamped at the border. map[h*w] rows of channels. */
function bilinear(map: Rows, [h, w]: readonly number[], [H, W]: readonly number[]): Rows {
  const axis = (i: number, from: number, to: number) => {
    const source = Math.max(0, ((i + 0.5) * from) / to - 0.5);
    const low = Math.min(Math.floor(source), from - 1);
    return [low, Math.min(low + 1, from - 1), source - low] as const;
  };
  return range(H! * W!).map((p) => {
    const [y0, y1, fy] = axis(Math.floor(p / W!), h!, H!);
    const [x0, x1, fx] = axis(p % W!, w!, W!);
    const at = (y: number, x: number, c: number) => map[y * w! + x]![c]!;
    return rowOf(map[0]!.length, (c) => {
      const top = at(y0, x0, c) * (1 - fx) + at(y0, x1, c) * fx;
      return top * (1 - fy) + (at(y1, x0, c) * (1 - fx) + at(y1, x1, c) * fx) * fy;
    });
  });
}

/** Tokens of 2 x 2 positions, channel 4c + 2dy + dx, and back. */
function gather(map: Rows, [h, w]: readonly number[]): Rows {
  return range((h! / 2) * (w! / 2)).map((t) => {
    const [y, x] = [2 * Math.floor(t / (w! / 2)), 2 * (t % (w! / 2))];
    return rowOf(4 * map[0]!.length, (c) => map[(y + ((c >> 1) & 1)) * w! + x + (c & 1)]![c >> 2]!);
  });
}
function spread(tokens: Rows, [h, w]: readonly number[]): Rows {
  return range(4 * h! * w!).map((p) => {
    const [y, x] = [Math.floor(p / (2 * w!)), p % (2 * w!)];
    const token = tokens[(y >> 1) * w! + (x >> 1)]!;
    return rowOf(token.length / 4, (c) => token[4 * c + 2 * (y & 1) + (x & 1)]!);
  });
}

function halfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

/** One run sample: its condition and, for every block, the keys and values so far. */
interface Stream {
  readonly cond: Float64Array;
  readonly text: Rows;
  readonly cache: { k: Rows; v: Rows }[];
}

export class PlainTransformer {
  private readonly C: number;

  constructor(
    private readonly config: InfinityConfig,
    private readonly weights: Weights,
  ) {
    this.C = config.embed_dim;
  }

  private get(name: string): ArrayLike<number> {
    const found = this.weights.get(name);
    if (!found) throw new Error(`no ${name}`);
    return found.data;
  }

  /** weight [out, in] of NAME.weight, and NAME.bias where there is one. */
  private linear(rows: Rows, name: string, bias = this.weights.get(`${name}.bias`)?.data): Rows {
    const { shape, data } = this.weights.get(`${name}.weight`)!;
    const [out = 0, inputs = 0] = shape;
    return each(rows, (row) =>
      rowOf(out, (o) => {
        let sum = bias?.[o] ?? 0;
        for (let i = 0; i < inputs; i++) sum += data[o * inputs + i]! * row[i]!;
        return sum;
      }),
    );
  }

  private norm(row: Float64Array, rms: boolean, weight?: ArrayLike<number>, bias?: ArrayLike<number>): Float64Array {
    const mean = rms ? 0 : row.reduce((a, b) => a + b, 0) / row.length;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length;
    const scale = 1 / Math.sqrt(variance + this.config.norm_eps);
    return rowOf(row.length, (i) => (row[i]! - mean) * scale * (weight?.[i] ?? 1) + (bias?.[i] ?? 0));
  }

  private affine(rows: Rows, name: string): Rows {
    return each(rows, (row) =>
      this.norm(row, this.config.rms_norm, this.get(`${name}.weight`), this.weights.get(`${name}.bias`)?.data),
    );
  }

  private modulated(rows: Rows, scale: Float64Array, shift: Float64Array): Rows {
    return each(rows, (row) => {
      const y = this.norm(row, this.config.rms_norm);
      return rowOf(y.length, (i) => y[i]! * (1 + scale[i]!) + shift[i]!);
    });
  }

  /** Softmax attention of queries to rows that are projected to keys and values with a bias on the values alone. */
  private textAttention(queries: Rows, text: Rows, name: string, heads: number): Rows {
    const { C } = this;
    const c = C / heads;
    const valueBias = [...new Float64Array(C), ...Array.from(this.get(`${name}.v_bias`))];
    const kv = this.linear(text, `${name}.mat_kv`, valueBias);
    const part = (row: Float64Array, at: number) => row.subarray(at, at + c);
    const mixed = queries.map((q) => {
      const out = new Float64Array(C);
      for (let h = 0; h < heads; h++) {
        const scores = kv.map((row) => dot(part(q, h * c), part(row, h * c)) / Math.sqrt(c));
        out.set(
          softmaxMix(
            scores,
            kv.map((row) => part(row, C + h * c)),
          ),
          h * c,
        );
      }
      return out;
    });
    return this.linear(mixed, `${name}.proj`);
  }

  private stream(prompt: Rows): Stream {
    const { text_channels: Ct, depth } = this.config;
    const rows = each(prompt, (row) => this.norm(row, true, this.get('text_norm.weight')));
    const heads = Math.floor(Ct / (this.C <= 4096 ? 128 : 64));
    const query = Float64Array.from(this.get('text_proj_for_sos.ca.mat_q'));
    const [cond] = this.textAttention([query], rows, 'text_proj_for_sos.ca', heads);
    const hidden = each(this.linear(rows, 'text_proj_for_ca.0'), (row) => row.map(gelu));
    const text = this.linear(hidden, 'text_proj_for_ca.2');
    return { cond: cond!, text, cache: range(depth).map(() => ({ k: [], v: [] })) };
  }

  /** Six rows of C: gains, scales and shifts of the two modulated sub-layers. */
  private modulation(cond: Float64Array, block: string): Float64Array[] {
    const { C, config } = this;
    const [six] = this.linear([cond.map(silu)], config.shared_aln ? 'shared_ada_lin.1' : `${block}.ada_lin.1`);
    const own = config.shared_aln ? this.get(`${block}.ada_gss`) : undefined;
    return range(6).map((n) => rowOf(C, (i) => six![n * C + i]! + (own?.[n * C + i] ?? 0)));
  }

  /** Angles of all pairs of every token of a scale; for mode 1 the interpolated cosines and sines instead. */
  private rotation([, h, w]: readonly number[], finest: readonly [number, number]): [Float64Array, Float64Array][] {
    const { num_heads, rope2d_normalized_by_hw: mode } = this.config;
    const quarter = this.C / num_heads / 4;
    const theta = range(quarter).map((j) => 10000 ** (-j / quarter));
    const [H, W] = finest;
    const window = H >= W ? [128, Math.trunc((128 / H) * W)] : [Math.trunc((128 / W) * H), 128];
    const turn = (i: number, extent: number, axis: 0 | 1): [number[], number[]] => {
      const at = (p: number) => [theta.map((t) => Math.cos(p * t)), theta.map((t) => Math.sin(p * t))] as const;
      if (mode === 0) return at(i) as [number[], number[]];
      if (mode === 2) return at(halfEven(i * Math.fround(finest[axis] / extent))) as [number[], number[]];
      const source = extent > 1 ? (i * (window[axis]! - 1)) / (extent - 1) : 0;
      const low = Math.min(Math.floor(source), window[axis]! - 1);
      const [a, b, f] = [at(low), at(Math.min(low + 1, window[axis]! - 1)), source - low];
      return [0, 1].map((n) => a[n]!.map((v, j) => v * (1 - f) + b[n]![j]! * f)) as [number[], number[]];
    };
    return range(h! * w!).map((t) => {
      const [rows, columns] = [turn(Math.floor(t / w!), h!, 0), turn(t % w!, w!, 1)];
      return [Float64Array.from([...rows[0], ...columns[0]]), Float64Array.from([...rows[1], ...columns[1]])];
    });
  }

  private selfAttention(
    x: Rows,
    block: string,
    cache: { k: Rows; v: Rows },
    turns: [Float64Array, Float64Array][],
  ): Rows {
    const { C, config } = this;
    const c = C / config.num_heads;
    const bias = [...Array.from(this.get(`${block}.sa.q_bias`)), ...new Float64Array(C)];
    const qkv = this.linear(x, `${block}.sa.mat_qkv`, [...bias, ...Array.from(this.get(`${block}.sa.v_bias`))]);
    const prepared = (row: Float64Array, from: number, t: number, gains?: ArrayLike<number>): Float64Array => {
      const out = new Float64Array(C);
      for (let h = 0; h < config.num_heads; h++) {
        const head = row.slice(from + h * c, from + (h + 1) * c);
        const length = config.cos_attn ? Math.max(Math.sqrt(dot(head, head)), 1e-12) : 1;
        const gain = gains ? Math.exp(Math.min(gains[h]!, Math.log(100))) : 1;
        const [cos, sin] = turns[t]!;
        for (let i = 0; i < c / 2; i++) {
          const [a, b] = [(head[2 * i]! / length) * gain, (head[2 * i + 1]! / length) * gain];
          out[h * c + 2 * i] = a * cos[i]! - b * sin[i]!;
          out[h * c + 2 * i + 1] = a * sin[i]! + b * cos[i]!;
        }
      }
      return out;
    };
    const gains = config.cos_attn ? this.get(`${block}.sa.scale_mul_1H11`) : undefined;
    cache.k.push(...qkv.map((row, t) => prepared(row, C, t)));
    cache.v.push(...qkv.map((row) => row.slice(2 * C)));
    const scale = config.cos_attn ? 1 : 1 / (Math.sqrt(c) * config.tau);
    const mixed = qkv.map((row, t) => {
      const q = prepared(row, 0, t, gains);
      const out = new Float64Array(C);
      for (let h = 0; h < config.num_heads; h++) {
        const part = (r: Float64Array) => r.subarray(h * c, (h + 1) * c);
        const scores = cache.k.map((k) => scale * dot(part(q), part(k)));
        out.set(softmaxMix(scores, cache.v.map(part)), h * c);
      }
      return out;
    });
    return this.linear(mixed, `${block}.sa.proj`);
  }

  private feedForward(x: Rows, block: string): Rows {
    const up = this.linear(x, `${block}.ffn.fc1`);
    const gate = this.config.swiglu ? this.linear(x, `${block}.ffn.fcg`) : undefined;
    const hidden = each(up, (row, t) => row.map((v, i) => (gate ? silu(gate[t]![i]!) * v : gelu(v))));
    return this.linear(hidden, `${block}.ffn.fc2`);
  }

  private block(x: Rows, i: number, s: Stream, turns: [Float64Array, Float64Array][]): Rows {
    const { depth, block_chunks, cross_attn_layer_scale, num_heads } = this.config;
    const inChunk = depth / block_chunks;
    const name = block_chunks === 1 ? `blocks.${i}` : `block_chunks.${Math.floor(i / inChunk)}.module.${i % inChunk}`;
    const [g1, g2, s1, s2, t1, t2] = this.modulation(s.cond, name) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const plus = (a: Rows, b: Rows, gain?: ArrayLike<number>) =>
      each(a, (row, t) => rowOf(row.length, (n) => row[n]! + b[t]![n]! * (gain?.[n] ?? 1)));
    const gamma = cross_attn_layer_scale >= 0 ? this.get(`${name}.ca_gamma`) : undefined;
    let y = plus(x, this.selfAttention(this.modulated(x, s1, t1), name, s.cache[i]!, turns), g1);
    const queries = this.linear(this.affine(y, `${name}.ca_norm`), `${name}.ca.mat_q`);
    y = plus(y, this.textAttention(queries, s.text, `${name}.ca`, num_heads), gamma);
    return plus(y, this.feedForward(this.modulated(y, s2, t2), name), g2);
  }

  private classify(x: Rows, cond: Float64Array): Rows {
    const [two] = this.linear([cond.map(silu)], 'head_nm.ada_lin.1');
    const y = this.modulated(x, two!.slice(0, this.C), two!.slice(this.C));
    if (this.config.head_depth === 1) return this.linear(y, 'head');
    return this.linear(
      each(this.linear(y, 'head.0'), (row) => row.map(gelu)),
      'head.2',
    );
  }

  private levelRow(k: number): ArrayLike<number> {
    return Array.from(this.get('lvl_embed.weight')).slice(k * this.C, (k + 1) * this.C);
  }

  private addsLevel(i: number): boolean {
    const { add_lvl_embeding_only_first_block: once, depth, block_chunks } = this.config;
    if (once) return i === 0;
    return block_chunks === 1 || i % (depth / block_chunks) === 0;
  }

  run({ prompts, negatives, schedule, finest, bits, guidance, layers, tau }: PlainRequest): PlainResult {
    const { config, C } = this;
    const { depth, vae_embed_dim: d, apply_spatial_patchify: patchify, text_channels: Ct } = config;
    const nothing = this.get('cfg_uncond');
    const uncond = negatives ?? prompts.map((p) => p.map((_, n) => rowOf(Ct, (i) => nothing[n * Ct + i]!)));
    const pairs = prompts.map((prompt, b) => [this.stream(prompt), this.stream(uncond[b]!)] as const);
    const grids = patchify ? patchifySchedule(schedule) : schedule;
    const full = finestGrid(grids);
    const sums: (Rows | undefined)[] = prompts.map(() => undefined);
    const inputs: Rows[][] = [];
    const logits: Rows[][] = [];
    const mix = (both: readonly [Rows, Rows], cfg: number): Rows =>
      each(both[0], (row, t) => rowOf(row.length, (i) => cfg * row[i]! + (1 - cfg) * both[1][t]![i]!));
    for (const [k, scale] of schedule.entries()) {
      const turns = this.rotation(scale, finest);
      const cfg = guidance[k]!;
      inputs.push([]);
      logits.push([]);
      for (const [b, pair] of pairs.entries()) {
        let input: Rows | undefined;
        if (k > 0) {
          const [, h, w] = grids[k]!;
          const map = bilinear(sums[b]!, full, [h, w]);
          input = patchify ? gather(map, [h, w]) : map;
          inputs[k]!.push(input);
        }
        const x = pair.map((s) => {
          if (!input) return [rowOf(C, (i) => s.cond[i]! + this.get('pos_start')[i]!)];
          return this.linear(config.nm0 ? this.affine(input, 'norm0_ve') : input, 'word_embed');
        }) as [Rows, Rows];
        for (let i = 0; i < depth; i++) {
          for (const [n, s] of pair.entries()) {
            const level = this.addsLevel(i) ? this.levelRow(k) : undefined;
            const entered = each(x[n as 0 | 1], (row) => rowOf(C, (c) => row[c]! + (level?.[c] ?? 0)));
            x[n as 0 | 1] = this.block(entered, i, s, turns);
          }
          if (cfg !== 1 && layers.includes(i - depth)) x[0] = x[1] = mix(x, cfg);
        }
        const heads = x.map((rows, n) => this.classify(rows, pair[n]!.cond)) as [Rows, Rows];
        const guided = cfg !== 1 && layers.includes(0) ? mix(heads, cfg) : heads[0];
        logits[k]!.push(each(guided, (row) => row.map((v) => v / tau[k]!)));
        const [, h, w] = scale;
        const codes = each(bits[k]![b]!, (row) => row.map((bit) => (2 * bit - 1) / Math.sqrt(d)));
        const [, hv, wv] = grids[k]!;
        const up = bilinear(patchify ? spread(codes, [h, w]) : codes, [hv, wv], full);
        const before = sums[b];
        sums[b] = before ? each(before, (row, p) => row.map((v, c) => v + up[p]![c]!)) : up;
      }
    }
    return { inputs, logits };
  }
}
