/**
 * What loading a model and drawing with it would take, without reading a weight: the request runs on a dry device, command by
 * command, so the figures follow the code and not a formula beside it.
 */
import { Device } from '../device.js';
import type { WeightFormat } from '../nn/module.js';
import { observeFlops } from '../ops/flops.js';
import { kvElements, kvExtents } from '../transformer/kv_cache.js';
import type { NetworkName } from '../weights/find_states.js';
import { draw, groupSize } from './draw.js';
import { Job } from './job.js';
import { emptyModel, type Model, type Networks, networksOf } from './load.js';
import { checkLoadOptions, type LoadOptions, openModel } from './load_options.js';
import type { ModelParts } from './model_parts.js';
import type { PretrainedParts } from './official_parts.js';
import { type GenerateOptions, planOf, refuseUnknown, samplingDefaults } from './options.js';
import { decodeBits, encodePicture } from './picture_bits.js';
import { PromptFeatures } from './prompt_features.js';
import { allResident, type Lease, type Offloaded, OneAtATime, type Residency } from './residency.js';
import { chooseSize } from './sizes.js';

/** A request, and how the model would be loaded for it. */
export interface EstimateOptions
  extends Pick<LoadOptions, 'threads' | 'dtype' | 'offload' | 'tile'>,
    Pick<GenerateOptions, 'size' | 'aspect' | 'pixels' | 'nearest' | 'count' | 'guidance' | 'negativePrompt'> {
  /** Its length in tokens has a small influence. Default: a prompt of a dozen words. */
  readonly prompt?: string | undefined;
  /** Bytes of tensor memory that the request would have, which decide how many pictures are drawn together. Default: this machine's. */
  readonly memoryLimit?: number | undefined;
}

type Request = Omit<EstimateOptions, 'threads' | 'dtype' | 'offload' | 'tile' | 'memoryLimit' | 'prompt'> & {
  readonly prompt: string;
};

/** One network's part of a request. */
export interface StageEstimate {
  readonly stage: NetworkName;
  /** Its weights as they lie in memory. */
  readonly weightBytes: number;
  /** Most tensor memory while it works, weights of all networks in memory included. */
  readonly peakBytes: number;
  /** Most memory beside weights while it works: activations, keys and values, scratch. */
  readonly activationBytes: number;
  /** Multiply-adds of products and convolutions. */
  readonly multiplyAdds: number;
}

export interface Estimate {
  /** In the order of their work. */
  readonly stages: readonly StageEstimate[];
  readonly weightBytes: number;
  /** Keys and values of all scales (of the last one in one block), of all pictures that are drawn together; part of the transformer's activations. */
  readonly cacheBytes: number;
  /** Most tensor memory while the weights are read. */
  readonly loadBytes: number;
  /** Most tensor memory at any time, as `device.stats().peakBytes` would tell. */
  readonly peakBytes: number;
  readonly multiplyAdds: number;
}

const LOAD_FIELDS = ['threads', 'dtype', 'offload', 'tile', 'memoryLimit'];
const REQUEST_FIELDS = ['size', 'aspect', 'pixels', 'nearest', 'count', 'guidance', 'negativePrompt', 'prompt'];
const PROMPT = 'a photograph of a lighthouse above the sea in the evening, waves';

/** Notes what happens on a device while a network is leased. */
class Stages implements Residency {
  readonly measured = new Map<NetworkName, { peakBytes: number; multiplyAdds: number }>();
  private current: NetworkName | undefined;
  private peak = 0;

  constructor(
    private readonly device: Device,
    private readonly inner: Residency,
  ) {}

  count(multiplyAdds: number): void {
    const stage = this.current && this.measured.get(this.current);
    if (stage) stage.multiplyAdds += multiplyAdds;
  }

  async acquire(name: NetworkName, signal?: AbortSignal): Promise<Lease> {
    const lease = await this.inner.acquire(name, signal);
    this.mark();
    this.current = name;
    if (!this.measured.has(name)) this.measured.set(name, { peakBytes: 0, multiplyAdds: 0 });
    return {
      release: () => {
        this.mark();
        lease.release();
      },
    };
  }

  /** Ends what was measured so far. @returns the peak of all time */
  mark(): number {
    const { peakBytes } = this.device.resetPeak();
    const stage = this.current && this.measured.get(this.current);
    if (stage) stage.peakBytes = Math.max(stage.peakBytes, peakBytes);
    this.current = undefined;
    this.peak = Math.max(this.peak, peakBytes);
    return this.peak;
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}

/** Bytes of every network's weights, which all stay, or with `offload` the last one's alone. */
function reserve(networks: Networks, device: Device, format: WeightFormat, offload: boolean): Map<NetworkName, number> {
  const bytes = new Map<NetworkName, number>();
  for (const [name, module] of networksOf(networks)) {
    const before = device.stats().liveBytes;
    module.reserve({ freeze: format });
    bytes.set(name, device.stats().liveBytes - before);
    if (!offload || name === 'vae') continue;
    // Read when it is needed, not at the start.
    module.unload();
    device.resetPeak();
  }
  return bytes;
}

/** Draws once, or where there is no transformer encodes and decodes once. @returns bytes of keys and values */
async function work(model: Model, parts: ModelParts, device: Device, request: Request): Promise<number> {
  const defaults = samplingDefaults(parts.generation, model.sizes);
  const job = new Job(device, undefined);
  const { generator } = model;
  const { prompt, ...options } = request;
  try {
    if (!generator) {
      const choice = chooseSize(model.sizes, defaults.size, options);
      const [height, width] = choice.size;
      const blank = { height, width, data: new Uint8Array(height * width * 3) };
      await decodeBits(model, await encodePicture(model, blank, choice, job), job);
      return 0;
    }
    const { tokenizer, textEncoder, transformer } = generator;
    const features = new PromptFeatures(tokenizer, textEncoder, transformer.config.text_maxlen);
    const plan = planOf(prompt, { ...options, seed: 0 }, model.sizes, defaults);
    const context = { model, generator, features, device, name: model.tokenizer, recordings: undefined };
    for await (const _ of draw(context, plan, new Set(), job));
    features.dispose();
    const together = Math.min(plan.pictures.length, groupSize(transformer.config, plan, device.stats().limitBytes));
    const { guidance, choice } = plan;
    const rows = guidance.some((g) => g !== 1) ? 2 * together : together;
    return rows * kvElements(kvExtents(transformer.config, choice.schedule)) * 4;
  } finally {
    await job.close();
  }
}

/**
 * Memory and arithmetic of loading a model and drawing once, stage by stage. Reads configurations and headers.
 *
 * @throws InfinityError as `fromPretrained` and `generate` do, except for memory
 */
export async function estimate(
  source: string | PretrainedParts | undefined,
  options: EstimateOptions = {},
): Promise<Estimate> {
  refuseUnknown(options, [...LOAD_FIELDS, ...REQUEST_FIELDS], 'estimate');
  const { threads, dtype = 'auto', offload = false, tile = 'auto', memoryLimit, prompt = PROMPT, ...request } = options;
  checkLoadOptions(source, { threads, dtype, offload, tile });
  const parts = await openModel(source, { sizesOnly: true });
  const device = Device.create('cpu', { ...(threads && { threads }), ...(memoryLimit && { memoryLimit }), dry: true });
  try {
    const networks = emptyModel(parts, device);
    const format = dtype === 'auto' ? 'f32' : dtype;
    const weights = reserve(networks, device, format, offload);
    const reserved = networksOf(networks).map(([name, module]): [string, Offloaded] => {
      const load = async () => void module.reserve({ freeze: format });
      return [name, { module, load }];
    });
    const residency = offload ? new OneAtATime(device, Object.fromEntries(reserved), 'vae') : allResident;
    const stages = new Stages(device, residency);
    const loadBytes = stages.mark();
    const stop = observeFlops(device, (flops) => stages.count(flops / 2));
    const tokenizer = { name: parts.name, sha256: '0'.repeat(64) };
    const model = { ...networks, tokenizer, residency: stages, tile };
    const cacheBytes = await work(model, parts, device, { prompt, ...request });
    stop();
    const weightBytes = [...weights.values()].reduce((a, b) => a + b, 0);
    const told = [...stages.measured].map(([stage, { peakBytes, multiplyAdds }]): StageEstimate => {
      const own = weights.get(stage)!;
      const activationBytes = peakBytes - (offload ? own : weightBytes);
      return { stage, weightBytes: own, peakBytes, activationBytes, multiplyAdds };
    });
    const multiplyAdds = told.reduce((sum, stage) => sum + stage.multiplyAdds, 0);
    return { stages: told, weightBytes, cacheBytes, loadBytes, peakBytes: stages.mark(), multiplyAdds };
  } finally {
    device.close();
  }
}
