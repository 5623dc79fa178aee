/** Keys and values of the scales so far, for every block: taken whole at the start of a picture, never grown or copied. */
import type { KeysValues, Memory } from '../nn/attention.js';
import { kvAppend } from '../ops/attention.js';
import { cat } from '../ops/shape.js';
import { Tensor, unscoped } from '../tensor.js';

/** Extents of the cache. */
export interface KvCacheOptions {
  readonly blocks: number;
  /** Samples that run, unconditional ones included. */
  readonly rows: number;
  /** Tokens of all scales but the last, whose keys and values nobody reads again. */
  readonly tokens: number;
  readonly width: number;
}

/** Memory of one request; dispose it with the request. */
export class KvCache {
  private readonly keys: Tensor[] = [];
  private readonly values: Tensor[] = [];

  constructor(
    private readonly options: KvCacheOptions,
    like: Pick<Tensor, 'device' | 'dtype'>,
  ) {
    const { blocks, rows, tokens, width } = options;
    if (tokens === 0) return;
    const take = () => unscoped(() => Tensor.empty([rows, tokens, width], like.dtype, like.device));
    try {
      for (let i = 0; i < blocks; i++) {
        this.keys.push(take());
        this.values.push(take());
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * What block `i` remembers at a scale whose first token is `start`.
   * @param range i32 [1, 1, 2], from 0 to the end of this scale
   */
  memory(i: number, start: number, range: Tensor): Memory {
    return {
      append: (k_BLC, v_BLC): KeysValues => {
        if (start === this.options.tokens) {
          if (start === 0) return { k_BLC, v_BLC, range };
          const joined = (cache: Tensor[], last: Tensor) => cat([this.rowsOf(cache[i]!, last), last], 1);
          return { k_BLC: joined(this.keys, k_BLC), v_BLC: joined(this.values, v_BLC), range };
        }
        const stored = (cache: Tensor[], fresh: Tensor): Tensor => {
          const rows = this.rowsOf(cache[i]!, fresh);
          kvAppend(rows, fresh, start);
          return rows;
        };
        return { k_BLC: stored(this.keys, k_BLC), v_BLC: stored(this.values, v_BLC), range };
      },
    };
  }

  /** The leading samples, as many as `of` has: unconditional ones stand last and may have stopped. */
  private rowsOf(cache: Tensor, of: Tensor): Tensor {
    return cache.view([of.shape[0]!, this.options.tokens, this.options.width]);
  }

  dispose(): void {
    for (const t of [...this.keys.splice(0), ...this.values.splice(0)]) t.dispose();
  }
}
