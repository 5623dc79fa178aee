/** The pipeline and the types of its calls. */

export { type ConvertOptions, type ConvertProgress, convertCheckpoint } from './convert.js';
export {
  type CheckpointDescription,
  type ComponentDescription,
  describeCheckpoint,
  describeWeights,
  type StateDescription,
  type TensorSummary,
  type WeightsDescription,
} from './describe_checkpoint.js';
export type { EditOptions, VaryOptions } from './edit.js';
export type { Estimate, EstimateOptions, StageEstimate } from './estimate.js';
export type { PipelineInfo } from './info.js';
export type { LoadProgress, Tiling } from './load.js';
export type { LoadOptions } from './load_options.js';
export type { Place } from './mask.js';
export type { ConfigOverrides, PretrainedParts } from './official_parts.js';
export type {
  GenerateOptions,
  PerScale,
  SamplingDefaults,
  SamplingOptions,
  ScaleEvent,
  StreamEvent,
  StreamOptions,
} from './options.js';
export type { Reconstruction } from './picture_bits.js';
export {
  type CallOptions,
  type DecodeOptions,
  type GenerateResult,
  InfinityPipeline,
} from './pipeline.js';
export { PRESETS, type Preset, type PresetName } from './presets.js';
export type { ModelName, PictureSettings } from './settings.js';
export type { Size } from './sizes.js';
