/** node-infinity: text to image by predicting bits, scale by scale. */
export { InfinityError, type InfinityErrorCode } from './errors.js';
export { type PullOptions, type PullProgress, type PullResult, pull } from './io/hub/index.js';
export {
  type EncodeOptions,
  IMAGE_FORMATS,
  Image,
  type ImageFormat,
  loadImage,
  type Metadata,
  type Pixels,
} from './io/index.js';
export {
  type CheckpointDescription,
  type ConfigOverrides,
  type ConvertOptions,
  type ConvertProgress,
  convertCheckpoint,
  describeCheckpoint,
  describeWeights,
  type GenerateOptions,
  type GenerateResult,
  InfinityPipeline,
  type LoadOptions,
  type LoadProgress,
  type ModelName,
  type PerScale,
  type PictureSettings,
  type PipelineInfo,
  PRESETS,
  type Preset,
  type PresetName,
  type PretrainedParts,
  type Reconstruction,
  type SamplingDefaults,
  type ScaleEvent,
  type Size,
  type StateDescription,
  type StreamEvent,
  type StreamOptions,
  type WeightsDescription,
} from './pipeline/index.js';
export { BitTokens, type BitTokensInit, type TokenizerName } from './tokenizer/bit_file.js';
