/** Which computation a case's `kind` asks for. */
import type { GoldenCase } from '../case.js';
import { ffnWidths } from './hyperparameters.js';
import { preprocess } from './picture.js';
import { bsqEdge } from './quantizer.js';
import { rope2d } from './rope.js';
import { schedulesTokenizer, schedulesTransformer } from './schedules.js';
import { t5Encoder } from './t5.js';
import { textTokenizer } from './text.js';
import { transformerForward } from './transformer_forward.js';

/** Computes what the case asks for and gives it to the case, which compares. */
export type Kind = (golden: GoldenCase) => Promise<void>;

/** JSON files of these kinds describe data of other cases. */
export const DATA_KINDS: readonly string[] = ['model'];

export const kinds: Readonly<Record<string, Kind>> = {
  bsq_edge: bsqEdge,
  ffn_hidden: ffnWidths,
  preprocess,
  rope2d,
  schedules_tokenizer: schedulesTokenizer,
  schedules_transformer: schedulesTransformer,
  t5_encoder: t5Encoder,
  text_tokenizer: textTokenizer,
  transformer_forward: transformerForward,
};
