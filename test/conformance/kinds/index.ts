/** Which computation a case's `kind` asks for. */
import type { GoldenCase } from '../case.js';
import { vaeEval, vaeFullEval, vaeFullGrad, vaeGrad } from './autoencoder.js';
import { bitvaeStep } from './bitvae_step.js';
import { blocks } from './blocks.js';
import { checkpoints } from './checkpoints.js';
import { ffnWidths, lrSchedule } from './hyperparameters.js';
import { preprocess } from './picture.js';
import { pthFiles } from './pth_files.js';
import { bitsToCodesOverScales, bsqEdge, msbsqEval } from './quantizer.js';
import { bsqTrain, lfqTrain, msbsqTrain } from './quantizer_training.js';
import { rope2d } from './rope.js';
import { sample } from './sample.js';
import { schedulesTokenizer, schedulesTransformer } from './schedules.js';
import { bsc } from './self_correction.js';
import { t5Encoder } from './t5.js';
import { textTokenizer } from './text.js';
import { textToLatent } from './text_to_latent.js';
import { trainStep } from './train_step.js';
import { transformerForward } from './transformer_forward.js';

/** Computes what the case asks for and gives it to the case, which compares. */
export type Kind = (golden: GoldenCase) => Promise<void>;

/** JSON files of these kinds describe data of other cases. */
export const DATA_KINDS: readonly string[] = ['model'];

export const kinds: Readonly<Record<string, Kind>> = {
  bits_to_codes: bitsToCodesOverScales,
  bitvae_step: bitvaeStep,
  blocks,
  bsc,
  bsq_edge: bsqEdge,
  bsq_train: bsqTrain,
  checkpoints,
  ffn_hidden: ffnWidths,
  lfq_train: lfqTrain,
  lr_schedule: lrSchedule,
  msbsq_eval: msbsqEval,
  msbsq_train: msbsqTrain,
  preprocess,
  pth_files: pthFiles,
  rope2d,
  sample,
  schedules_tokenizer: schedulesTokenizer,
  schedules_transformer: schedulesTransformer,
  t5_encoder: t5Encoder,
  text_to_latent: textToLatent,
  text_tokenizer: textTokenizer,
  train_step: trainStep,
  transformer_forward: transformerForward,
  vae_eval: vaeEval,
  vae_full_eval: vaeFullEval,
  vae_full_grad: vaeFullGrad,
  vae_grad: vaeGrad,
};
