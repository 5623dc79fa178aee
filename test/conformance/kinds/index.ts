/** Which computation a case's `kind` asks for. */
import type { GoldenCase } from '../case.js';
import { preprocess } from './picture.js';
import { bsqEdge } from './quantizer.js';
import { rope2d } from './rope.js';
import { schedulesTokenizer, schedulesTransformer } from './schedules.js';
import { textTokenizer } from './text.js';

/** Computes what the case asks for and gives it to the case, which compares. */
export type Kind = (golden: GoldenCase) => Promise<void>;

/** JSON files of these kinds describe data of other cases. */
export const DATA_KINDS: readonly string[] = ['model'];

export const kinds: Readonly<Record<string, Kind>> = {
  bsq_edge: bsqEdge,
  preprocess,
  rope2d,
  schedules_tokenizer: schedulesTokenizer,
  schedules_transformer: schedulesTransformer,
  text_tokenizer: textTokenizer,
};
