/**
 * What pooling and the cross attention of every block read of the text. Rows are projected each by itself, so those of the
 * learned "no text" that guidance leads away from are the same in every request: a frozen network projects them once a load.
 */
import type { TextKeysValues } from '../nn/attention.js';
import { cat } from '../ops/shape.js';
import { scope, type Tensor, unscoped } from '../tensor.js';
import type { CrossAttnBlock } from './block.js';
import type { TextConditioner } from './text.js';

/** Keys and values of the same rows for all who attend to them. */
export interface TextMemory {
  readonly pool: TextKeysValues;
  readonly blocks: readonly TextKeysValues[];
}

/** The parts of a transformer that text passes through. */
export interface TextReaders {
  readonly text: TextConditioner;
  readonly blocks: readonly CrossAttnBlock[];
}

/** Fewest learned rows that are kept: short prompts of different lengths share them. */
const LEAST_ROWS = 16;

/** @param kv_NCt features of prompts, [N, text_channels] */
export function projectText({ text, blocks }: TextReaders, kv_NCt: Tensor): TextMemory {
  return scope(() => {
    const { pool, ca_NC } = text.project(kv_NCt);
    return { pool, blocks: blocks.map((block) => block.textKeysValues(ca_NC)) };
  });
}

/** The rows of `prompts`, then the first `rows` of `learned`. */
export function appendRows(prompts: TextMemory, learned: TextMemory, rows: number): TextMemory {
  const join = (first: Tensor, then: Tensor) => cat([first, then.view([1, rows, then.shape[2]!])], 1);
  const both = (first: TextKeysValues, then: TextKeysValues): TextKeysValues => ({
    k_1NC: join(first.k_1NC, then.k_1NC),
    v_1NC: join(first.v_1NC, then.v_1NC),
  });
  return {
    pool: both(prompts.pool, learned.pool),
    blocks: prompts.blocks.map((kv, i) => both(kv, learned.blocks[i]!)),
  };
}

/** Projections of the first learned rows, as many as the longest prompt so far needs. */
export class LearnedText {
  private rows = 0;
  private memory: TextMemory | undefined;

  constructor(private readonly readers: TextReaders) {}

  /** At least `rows` rows, valid until the next call with more of them has been submitted. */
  first(rows: number): TextMemory {
    if (this.memory && this.rows >= rows) return this.memory;
    const { text } = this.readers;
    const wanted = Math.max(LEAST_ROWS, 2 ** Math.ceil(Math.log2(rows)));
    const count = Math.min(wanted, text.longest);
    // Later requests read it too: one that is cancelled must not take its computation along.
    const made = text.device.withToken(null, () =>
      unscoped(() => scope(() => projectText(this.readers, text.learnedRows(count)))),
    );
    this.dispose();
    [this.rows, this.memory] = [count, made];
    return made;
  }

  dispose(): void {
    const { pool, blocks } = this.memory ?? { pool: undefined, blocks: [] };
    for (const kv of [pool, ...blocks]) {
      kv?.k_1NC.dispose();
      kv?.v_1NC.dispose();
    }
    this.memory = undefined;
  }
}
