/** `node-infinity/training`: trainers and what they are made of. */
export { packBits, unpackBits } from '../ops/bits.js';
export { lrFactor, weightDecayAt } from './lr_schedule.js';
export type { OpenTrainingOptions, Training, TrainingKind } from './open.js';
export { openTraining } from './open.js';
export { AdamW } from './optimizer.js';
export { writeReport } from './report/index.js';
export type { RunOptions, StepEvent } from './run.js';
export type { LogLine, MemoryUse } from './run_log.js';
export { readRunLog } from './run_log.js';
export { BitwiseSelfCorrection } from './self_correction.js';
export { TensorBoardWriter } from './tensorboard.js';
export { TokenizerTrainer, type TokenizerTrainingConfig } from './tokenizer_trainer.js';
export { TransformerTrainer, type TransformerTrainingConfig } from './transformer_trainer.js';
