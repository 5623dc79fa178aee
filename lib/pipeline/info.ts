/** What a pipeline says of itself. */
import type { Device, DeviceKind } from '../device.js';
import type { Model } from './load.js';
import type { SamplingDefaults } from './options.js';
import type { ModelName } from './settings.js';

export interface PipelineInfo extends ModelName {
  readonly device: DeviceKind;
  readonly threads: number;
  readonly dtype: 'f32' | 'bf16';
  readonly parameters: Readonly<Record<'transformer' | 'vae' | 'text_encoder', number>>;
  /** Longest prompt, end marker included; 0 where the checkpoint cannot draw. */
  readonly promptTokens: number;
  readonly defaults: SamplingDefaults | undefined;
}

export function pipelineInfo(
  { generator, autoencoder }: Model,
  {
    device,
    defaults,
    ...rest
  }: ModelName & Pick<PipelineInfo, 'dtype' | 'promptTokens' | 'defaults'> & { device: Device },
): PipelineInfo {
  return {
    ...rest,
    device: device.kind,
    threads: device.stats().threads,
    parameters: {
      transformer: generator?.transformer.parameterCount() ?? 0,
      vae: autoencoder.parameterCount(),
      text_encoder: generator?.textEncoder.parameterCount() ?? 0,
    },
    defaults: generator && defaults,
  };
}
