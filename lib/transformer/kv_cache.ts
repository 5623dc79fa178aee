/**
 * Keys and values of the scales so far, for every block: taken whole at the start of a picture, never grown or copied.
 *
 * Nobody reads a block's rows once the last scale has passed it. So a sample's blocks lie in falling order, and those of the
 * last scale go behind their block's own, over rows of blocks that are done; only the first block needs room for them. Every block
 * finds all it reads in one piece:
 *
 *     rows of a sample:  | block n−1 | ... | block 1 | block 0 | last scale of block 0 |
 */
import type { Memory } from '../nn/attention.js';
import { qkvAppend } from '../ops/attention.js';
import { Tensor, unscoped } from '../tensor.js';
import { type ScaleSchedule, scaleTokens, tokenCount } from '../tokenizer/schedule.js';
import type { InfinityConfig } from './config.js';

/** What a sample takes. */
export interface KvExtents {
  readonly blocks: number;
  readonly width: number;
  /** Tokens of all scales but the last. */
  readonly tokens: number;
  /** Tokens of the last scale. */
  readonly last: number;
}

/** Extents for pictures of a schedule. */
export function kvExtents(
  { depth, embed_dim }: Pick<InfinityConfig, 'depth' | 'embed_dim'>,
  schedule: ScaleSchedule,
): KvExtents {
  const last = scaleTokens(schedule.at(-1)!);
  return { blocks: depth, width: embed_dim, tokens: tokenCount(schedule) - last, last };
}

/** Rows of a sample. */
const sampleRows = ({ blocks, tokens, last }: KvExtents): number => blocks * tokens + last;

/** Elements that keys and values of a sample take together. */
export const kvElements = (extents: KvExtents): number => 2 * sampleRows(extents) * extents.width;

/** Memory of one request, whose scales pass all blocks in order; dispose it with the request. */
export class KvCache {
  private readonly sampleStride: number;
  private readonly held: Tensor[] = [];

  /** @param extents `rows`: samples that run, unconditional ones included */
  constructor(
    private readonly extents: KvExtents & { readonly rows: number },
    like: Pick<Tensor, 'device' | 'dtype'>,
  ) {
    this.sampleStride = sampleRows(extents);
    const shape = [1, extents.rows * this.sampleStride, extents.width];
    try {
      for (let i = 0; i < 2; i++) this.held.push(unscoped(() => Tensor.empty(shape, like.dtype, like.device)));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * What block `i` remembers at a scale whose first token is `start`. Fewer samples than there is room for are the leading
   * ones: unconditional ones stand last and may have stopped.
   */
  memory(i: number, start: number): Memory {
    const { sampleStride } = this;
    const { blocks, tokens, width } = this.extents;
    return {
      append: (qkv_BL3C, options) => {
        const [samples, length] = qkv_BL3C.shape as [number, number, number];
        const seen = (samples - 1) * sampleStride + start + length;
        const before = (blocks - 1 - i) * tokens * width;
        const [k_1NC, v_1NC] = this.held.map((rows) => rows.view([1, seen, width], before)) as [Tensor, Tensor];
        const q_BLC = qkvAppend(qkv_BL3C, { k_1NC, v_1NC, start, sampleStride }, options);
        return { q_BLC, k_BLC: k_1NC, v_BLC: v_1NC, sampleStride };
      },
    };
  }

  dispose(): void {
    for (const rows of this.held.splice(0)) rows.dispose();
  }
}
