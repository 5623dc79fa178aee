/** `InfinityPipeline`: a loaded checkpoint that draws, encodes and decodes pictures. */
import { Device } from '../device.js';
import { InfinityError, invalidArgument } from '../errors.js';
import type { Image } from '../io/image.js';
import type { Pixels } from '../io/pixels.js';
import type { BitTokens } from '../tokenizer/bit_file.js';
import { Recordings } from '../transformer/recordings.js';
import { type DrawEvent, draw } from './draw.js';
import {
  checkEdit,
  checkKeepScales,
  EDIT_OPTIONS,
  type EditOptions,
  keepAround,
  keepFirst,
  promptOfVariation,
  VARY_OPTIONS,
  type VaryOptions,
} from './edit.js';
import { type Estimate, type EstimateOptions, estimate } from './estimate.js';
import { type PipelineInfo, pipelineInfo } from './info.js';
import { Jobs } from './jobs.js';
import { disposeModel, loadModel, type Model } from './load.js';
import { checkLoadOptions, type LoadOptions, openModel } from './load_options.js';
import type { PretrainedParts } from './official_parts.js';
import {
  GENERATE_OPTIONS,
  type GenerateOptions,
  type Plan,
  planOf,
  previewScales,
  refuseUnknown,
  type SamplingDefaults,
  STREAM_OPTIONS,
  type StreamEvent,
  type StreamOptions,
  samplingDefaults,
} from './options.js';
import {
  checkPicture,
  decodeBits,
  encodePicture,
  fitPicture,
  type Reconstruction,
  reconstructPicture,
} from './picture_bits.js';
import { PromptFeatures } from './prompt_features.js';
import { allResident } from './residency.js';
import { type ModelName, type PictureSettings, settingsOf } from './settings.js';
import { nearestSize, type Size } from './sizes.js';

/** Of calls with one result. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface DecodeOptions extends CallOptions {
  /** Decode the first scales alone. Default: all that the bits hold. */
  readonly scales?: number | undefined;
}

export interface GenerateResult {
  /** Prompt by prompt, then count. */
  readonly images: Image[];
  readonly milliseconds: number;
}

export class InfinityPipeline {
  readonly info: PipelineInfo;
  private readonly features: PromptFeatures | undefined;
  private readonly recordings: Recordings | undefined;
  private readonly jobs: Jobs;
  private disposal: Promise<void> | undefined;

  private constructor(
    private readonly model: Model,
    private readonly device: Device,
    private readonly ownsDevice: boolean,
    name: ModelName,
    dtype: 'f32' | 'bf16',
    private readonly defaults: SamplingDefaults,
  ) {
    const { generator } = model;
    this.jobs = new Jobs(device);
    if (generator) {
      const { tokenizer, textEncoder, transformer } = generator;
      this.features = new PromptFeatures(tokenizer, textEncoder, transformer.config.text_maxlen);
      // On a card the launches of a coarse scale take longer than its kernels, and a recording is a single one. They read weights
      // where they were, so these have to stay.
      const gains = device.kind === 'cuda' && model.residency === allResident;
      this.recordings = gains ? new Recordings(transformer) : undefined;
    }
    this.info = pipelineInfo(model, { ...name, device, dtype, promptTokens: this.features?.maxTokens ?? 0, defaults });
  }

  /**
   * Loads a checkpoint.
   *
   * @param source directory of a checkpoint, or the official files by their paths; left out, the model that is embedded in the package
   * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH, DEVICE_UNAVAILABLE,
   *   OUT_OF_MEMORY, INVALID_ARGUMENT; the signal's reason
   */
  static async fromPretrained(source?: string | PretrainedParts, options: LoadOptions = {}): Promise<InfinityPipeline> {
    checkLoadOptions(source, options);
    const {
      device: wanted = 'auto',
      deterministic = true,
      threads,
      dtype = 'auto',
      offload = false,
      tile = 'auto',
      signal,
      onProgress,
    } = options;
    signal?.throwIfAborted();
    const kind = wanted === 'auto' ? undefined : wanted;
    const own = threads !== undefined || !deterministic;
    const device = own
      ? Device.create(kind, { deterministic, ...(threads !== undefined && { threads }) })
      : Device.default(kind);
    const parts = await openModel(source);
    const format = dtype === 'auto' ? (device.kind === 'cuda' ? 'bf16' : 'f32') : dtype;
    try {
      const model = await loadModel(parts, { device, format, offload, tile, signal, onProgress });
      try {
        const defaults = samplingDefaults(parts.generation, model.sizes);
        const name = await parts.identify();
        return new InfinityPipeline(model, device, own, name, format, defaults);
      } catch (error) {
        disposeModel(model);
        throw error;
      }
    } catch (error) {
      if (own) device.close();
      throw error;
    }
  }

  /**
   * What loading a model and drawing with it would take: bytes of weights, keys and values and activations, and multiply-adds, stage
   * by stage. Reads configurations and headers, no weights.
   *
   * @throws InfinityError as `fromPretrained` and `generate` do, except for memory
   */
  static estimate(source?: string | PretrainedParts, options: EstimateOptions = {}): Promise<Estimate> {
    return estimate(source, options);
  }

  /** The request that draws a picture of this package again, bit for bit. @throws InfinityError IMAGE_INVALID */
  static settingsOf(image: Image): PictureSettings {
    return settingsOf(image);
  }

  /** Heights and widths in pixels that this checkpoint knows. */
  get sizes(): Size[] {
    return this.model.sizes.map(({ size }) => size);
  }

  /** Scales of a picture of the default size. */
  get scaleCount(): number {
    const [height, width] = this.defaults.size;
    const own = this.model.sizes.find(({ size }) => size[0] === height && size[1] === width);
    return own!.schedule.length;
  }

  /**
   * Draws pictures. Calls may overlap; each picture is the same alone, in any batch and on any number of threads.
   *
   * @param prompt one, or a list
   * @throws InfinityError INVALID_ARGUMENT, PROMPT_EMPTY, PROMPT_TOO_LONG, UNSUPPORTED_SIZE, OUT_OF_MEMORY, DISPOSED; the
   *   signal's reason
   */
  async generate(prompt: string | readonly string[], options: GenerateOptions = {}): Promise<GenerateResult> {
    const begin = performance.now();
    refuseUnknown(options, GENERATE_OPTIONS, 'generate');
    return this.collect(this.plan(prompt, options), options, begin);
  }

  /**
   * Draws one picture and tells of every scale; with `previews`, some events carry the picture so far. The last event holds the
   * picture. Leaving the loop stops the work.
   *
   * @throws InfinityError as `generate` does
   */
  async *stream(prompt: string, options: StreamOptions = {}): AsyncGenerator<StreamEvent, void, void> {
    const begin = performance.now();
    refuseUnknown(options, STREAM_OPTIONS, 'stream');
    const { previews = 0, ...request } = options;
    if (typeof prompt !== 'string')
      invalidArgument('the prompt', 'one string', prompt, 'Stream each prompt on its own.');
    const plan = this.plan(prompt, request);
    const scales = previewScales(previews, plan.choice.schedule.length);
    let last: readonly Image[] = [];
    for await (const { images, ...event } of this.events(plan, scales, options.signal)) {
      last = images ?? last;
      yield event;
    }
    yield { type: 'done', images: last, milliseconds: performance.now() - begin };
  }

  /**
   * Draws a part of a picture anew and leaves the rest. Farther than one stride of the tokenizer from the redrawn part, horizontally,
   * vertically or diagonally, pixels are those of the plain reconstruction; closer ones are blended. With `place`, the picture is
   * extended: everything around it is drawn.
   *
   * @param mask as large as the picture, white where it is drawn anew; may be left out with `place`
   * @param prompt what the whole picture shows afterwards; one, or a list
   * @throws InfinityError IMAGE_INVALID, and as `generate` does
   */
  async edit(
    picture: Pixels,
    mask: Pixels | undefined,
    prompt: string | readonly string[],
    options: EditOptions = {},
  ): Promise<GenerateResult> {
    const begin = performance.now();
    refuseUnknown(options, EDIT_OPTIONS, 'edit');
    const { place, ...request } = options;
    const plan = this.plan(prompt, request, place ? undefined : checkPicture(picture));
    const edit = checkEdit(picture, mask, place, plan.choice);
    const origin = await this.jobs.work(options, (job) => keepAround(this.model, edit, plan.choice, job));
    return this.collect({ ...plan, origin }, request, begin);
  }

  /**
   * Keeps the first scales of a picture and draws the others: the coarser the kept scales, the freer the variation.
   *
   * @throws InfinityError IMAGE_INVALID, PROMPT_EMPTY for a picture that carries no prompt where none is given, and as `generate` does
   */
  async vary(picture: Pixels, options: VaryOptions): Promise<GenerateResult> {
    const begin = performance.now();
    refuseUnknown(options, VARY_OPTIONS, 'vary');
    const { keepScales, prompt: _, ...request } = options;
    const plan = this.plan(promptOfVariation(checkPicture(picture), options), request, picture);
    checkKeepScales(keepScales, plan.choice);
    const origin = await this.jobs.work(options, (job) => keepFirst(this.model, picture, keepScales, plan.choice, job));
    return this.collect({ ...plan, origin }, request, begin);
  }

  /**
   * The bits of a picture, which is resized and cropped to the model's size of the nearest shape.
   *
   * @throws InfinityError IMAGE_INVALID, DISPOSED; the signal's reason
   */
  async encode(picture: Pixels, options: CallOptions = {}): Promise<BitTokens> {
    refuseUnknown(options, ['signal'], 'encode');
    return this.jobs.work(options, (job) => {
      const { pixels, choice } = fitPicture(picture, this.model.sizes);
      return encodePicture(this.model, pixels, choice, job);
    });
  }

  /**
   * The picture of bits: of all scales that they hold, or of the first ones alone, which is a coarser picture.
   *
   * @throws InfinityError INVALID_ARGUMENT for bits of another tokenizer or more scales than there are, DISPOSED; the signal's reason
   */
  async decode(bits: BitTokens, options: DecodeOptions = {}): Promise<Image> {
    refuseUnknown(options, ['scales', 'signal'], 'decode');
    return this.jobs.work(options, (job) => decodeBits(this.model, bits, job, options.scales));
  }

  /** A picture through the tokenizer and back. @throws InfinityError as `encode` does */
  async reconstruct(picture: Pixels, options: CallOptions = {}): Promise<Reconstruction> {
    refuseUnknown(options, ['signal'], 'reconstruct');
    return this.jobs.work(options, (job) => reconstructPicture(this.model, picture, job));
  }

  /**
   * Stops what is running (it rejects with DISPOSED), waits for the queue and releases all memory. Harmless when repeated.
   */
  dispose(): Promise<void> {
    this.disposal ??= this.shutDown();
    return this.disposal;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  private async shutDown(): Promise<void> {
    await this.jobs.close();
    // A failure belongs to whoever submitted the work, and reached them.
    await this.device.sync().catch(() => undefined);
    await this.model.residency.close();
    this.features?.dispose();
    this.recordings?.dispose();
    disposeModel(this.model);
    if (this.ownsDevice) this.device.close();
  }

  /** @param picture whose nearest size is the default */
  private plan(prompt: string | readonly string[], options: GenerateOptions, picture?: Pixels): Plan {
    const { features } = this;
    if (!features)
      throw new InfinityError('MODEL_NOT_FOUND', `The checkpoint "${this.info.name}" holds a visual tokenizer alone.`, {
        value: this.info.name,
        cure: 'Load a checkpoint with a transformer to draw, or use encode, decode and reconstruct.',
      });
    const { sizes } = this.model;
    const size = picture ? nearestSize(sizes, [picture.height, picture.width]).size : this.defaults.size;
    const plan = planOf(prompt, options, sizes, { ...this.defaults, size });
    for (const text of new Set(plan.pictures.map((picture) => picture.prompt))) features.tokens(text);
    if (plan.negativePrompt !== undefined) features.tokens(plan.negativePrompt);
    return plan;
  }

  private events(
    plan: Plan,
    previews: ReadonlySet<number>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<DrawEvent> {
    const { model, features, device, recordings } = this;
    const name = { name: this.info.name, sha256: this.info.sha256 };
    const context = { model, generator: model.generator!, features: features!, device, name, recordings };
    return this.jobs.events(signal, (job) => draw(context, plan, previews, job));
  }

  /** All pictures of a plan. */
  private async collect(plan: Plan, { signal, onScale }: GenerateOptions, begin: number): Promise<GenerateResult> {
    const images: Image[] = [];
    for await (const { images: done, preview: _, ...event } of this.events(plan, new Set(), signal)) {
      if (done) images.push(...done);
      onScale?.(event);
    }
    return { images, milliseconds: performance.now() - begin };
  }
}
