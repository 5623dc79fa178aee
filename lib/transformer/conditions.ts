/** What the prompts of a request contribute to every scale: modulation, text to attend to, the first token. */
import { type FoldedNorm, tensorsOfNorm } from '../nn/linear.js';
import type { Tensor } from '../tensor.js';
import type { BlockCondition } from './block.js';
import { conditional } from './guidance.js';
import type { HeadModulation } from './head.js';
import type { InfinityTransformer } from './infinity.js';
import type { TextRows } from './text.js';

/** What the prompts contribute, for all run samples or the conditional ones alone. */
export interface Conditions {
  readonly blocks: readonly BlockCondition[];
  readonly head: HeadModulation;
  readonly textRange: Tensor;
}

/**
 * The conditions of all run samples, and the token [rows, 1, C] that each starts from.
 * @param range i32 [rows, 1, 2]; see `TextConditioner.range`
 */
export function conditionsOf(
  model: InfinityTransformer,
  text: TextRows,
  range: Tensor,
): { all: Conditions; start_R1C: Tensor } {
  const memory = model.textMemory(text);
  const textRange = range.view(range.shape);
  const cond_RC = model.text.pooled(memory.pool, textRange);
  const source = model.modulationSource(cond_RC);
  const blocks = model.blocks.map((block, i) => block.condition(source, memory.blocks[i]!));
  return { all: { blocks, head: model.head.condition(cond_RC), textRange }, start_R1C: model.startToken(cond_RC) };
}

/** Those that a block keeps for every prompt are not among them. */
export function tensorsOf({ blocks, head, textRange }: Conditions): Tensor[] {
  const ofBlock = ({ modulation, text, folded }: BlockCondition): Tensor[] => [
    ...modulation,
    ...[text.k_1NC, text.v_1NC],
    ...(folded ? [folded.sa, folded.ffn].flatMap(tensorsOfNorm) : []),
  ];
  return [...blocks.flatMap(ofBlock), ...head, textRange];
}

/** Views of the conditional samples, which stand first. */
export function firstSamples({ blocks, head, textRange }: Conditions, B: number): Conditions {
  const first = <T extends readonly Tensor[]>(list: T) => list.map((t) => conditional(t, B)) as unknown as T;
  const firstOf = ({ affine_G2C, projected, ...norm }: FoldedNorm): FoldedNorm => ({
    ...norm,
    affine_G2C: conditional(affine_G2C, B),
    projected: new Map([...projected].map(([layer, t]) => [layer, conditional(t, B)])),
  });
  return {
    blocks: blocks.map(({ modulation, text: { k_1NC, v_1NC }, folded }) => ({
      modulation: first(modulation),
      text: { k_1NC: k_1NC.view(k_1NC.shape), v_1NC: v_1NC.view(v_1NC.shape) },
      folded: folded && { ...folded, sa: firstOf(folded.sa), ffn: firstOf(folded.ffn) },
    })),
    head: first(head),
    textRange: conditional(textRange, B),
  };
}
