/** `InfinityPipeline`: a loaded checkpoint that draws, encodes and decodes pictures. */
import { Device } from '../device.js';
import { InfinityError, invalidArgument } from '../errors.js';
import type { Image } from '../io/image.js';
import { psnr, ssim } from '../io/picture_metrics.js';
import type { Pixels } from '../io/pixels.js';
import type { BitTokens } from '../tokenizer/bit_file.js';
import { type DrawEvent, draw } from './draw.js';
import { Job } from './job.js';
import { disposeModel, loadModel, type Model } from './load.js';
import { checkLoadOptions, type LoadOptions, openModel } from './load_options.js';
import type { PretrainedParts } from './official_parts.js';
import {
  checkSignal,
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
import { decodeBits, encodePicture, fitPicture } from './picture_bits.js';
import { PromptFeatures } from './prompt_features.js';
import { type ModelName, type PictureSettings, settingsOf } from './settings.js';
import type { Size } from './sizes.js';

export interface GenerateResult {
  /** Prompt by prompt, then count. */
  readonly images: Image[];
  readonly milliseconds: number;
}

export interface Reconstruction {
  readonly image: Image;
  /** Against the picture as it was encoded, dB; Infinity when nothing was lost. */
  readonly psnr: number;
  /** Structural similarity of the luma to the picture as it was encoded; 1 when nothing was lost. */
  readonly ssim: number;
  /** How many bits stand for the picture. */
  readonly bits: number;
  readonly bitsPerPixel: number;
}

export interface PipelineInfo extends ModelName {
  readonly device: 'cpu';
  readonly threads: number;
  readonly dtype: 'f32' | 'bf16';
  readonly parameters: Readonly<Record<'transformer' | 'vae' | 'text_encoder', number>>;
  /** Longest prompt, end marker included; 0 where the checkpoint cannot draw. */
  readonly promptTokens: number;
  readonly defaults: SamplingDefaults | undefined;
}

export class InfinityPipeline {
  readonly info: PipelineInfo;
  private readonly features: PromptFeatures | undefined;
  private readonly jobs = new Set<Job>();
  private disposal: Promise<void> | undefined;

  private constructor(
    private readonly model: Model,
    private readonly device: Device,
    private readonly ownsDevice: boolean,
    name: ModelName,
    dtype: 'f32' | 'bf16',
    private readonly defaults: SamplingDefaults,
  ) {
    const { generator, autoencoder } = model;
    if (generator) {
      const { tokenizer, textEncoder, transformer } = generator;
      this.features = new PromptFeatures(tokenizer, textEncoder, transformer.config.text_maxlen);
    }
    this.info = {
      ...name,
      device: device.kind,
      threads: device.stats().threads,
      dtype,
      parameters: {
        transformer: generator?.transformer.parameterCount() ?? 0,
        vae: autoencoder.parameterCount(),
        text_encoder: generator?.textEncoder.parameterCount() ?? 0,
      },
      promptTokens: this.features?.maxTokens ?? 0,
      defaults: generator && defaults,
    };
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
    const { threads, dtype = 'auto', signal, onProgress } = options;
    signal?.throwIfAborted();
    const parts = await openModel(source);
    const device = threads === undefined ? Device.default() : Device.create('cpu', { threads });
    const format = dtype === 'auto' ? 'f32' : dtype;
    try {
      const model = await loadModel(parts, { device, format, signal, onProgress });
      try {
        const defaults = samplingDefaults(parts.generation, model.sizes);
        const name = await parts.identify();
        return new InfinityPipeline(model, device, threads !== undefined, name, format, defaults);
      } catch (error) {
        disposeModel(model);
        throw error;
      }
    } catch (error) {
      if (threads !== undefined) device.close();
      throw error;
    }
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
    const plan = this.plan(prompt, options);
    const images: Image[] = [];
    for await (const { images: done, preview: _, ...event } of this.events(plan, new Set(), options.signal)) {
      if (done) images.push(...done);
      options.onScale?.(event);
    }
    return { images, milliseconds: performance.now() - begin };
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
   * The bits of a picture, which is resized and cropped to the model's size of the nearest shape.
   *
   * @throws InfinityError IMAGE_INVALID, DISPOSED; the signal's reason
   */
  async encode(picture: Pixels, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<BitTokens> {
    return this.work(options, (job) => {
      const { pixels, choice } = fitPicture(picture, this.model.sizes);
      return encodePicture(this.model, pixels, choice, job);
    });
  }

  /**
   * The picture of bits: of all scales that they hold, or of the first ones alone, which is a coarser picture.
   *
   * @throws InfinityError INVALID_ARGUMENT for bits of another tokenizer or more scales than there are, DISPOSED; the signal's reason
   */
  async decode(
    bits: BitTokens,
    { scales, ...options }: { readonly scales?: number | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Image> {
    return this.work(options, (job) => decodeBits(this.model, bits, job, scales));
  }

  /** A picture through the tokenizer and back. @throws InfinityError as `encode` does */
  async reconstruct(
    picture: Pixels,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Reconstruction> {
    return this.work(options, async (job) => {
      const { pixels, choice } = fitPicture(picture, this.model.sizes);
      const tokens = await encodePicture(this.model, pixels, choice, job);
      const image = await decodeBits(this.model, tokens, job);
      const { bitCount: bits, bitsPerPixel } = tokens;
      return { image, psnr: psnr(pixels, image), ssim: ssim(pixels, image), bits, bitsPerPixel };
    });
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
    const jobs = [...this.jobs];
    for (const job of jobs) job.stop(disposed());
    await Promise.all(jobs.map((job) => job.closed));
    // A failure belongs to whoever submitted the work, and reached them.
    await this.device.sync().catch(() => undefined);
    this.features?.dispose();
    disposeModel(this.model);
    if (this.ownsDevice) this.device.close();
  }

  private plan(prompt: string | readonly string[], options: GenerateOptions): Plan {
    const { features } = this;
    if (!features)
      throw new InfinityError('MODEL_NOT_FOUND', `The checkpoint "${this.info.name}" holds a visual tokenizer alone.`, {
        value: this.info.name,
        cure: 'Load a checkpoint with a transformer to draw, or use encode, decode and reconstruct.',
      });
    const plan = planOf(prompt, options, this.model.sizes, this.defaults);
    for (const text of new Set(plan.pictures.map((picture) => picture.prompt))) features.tokens(text);
    if (plan.negativePrompt !== undefined) features.tokens(plan.negativePrompt);
    return plan;
  }

  private open(signal: AbortSignal | undefined): Job {
    if (this.disposal) throw disposed();
    const job = new Job(this.device, signal);
    this.jobs.add(job);
    void job.closed.then(() => this.jobs.delete(job));
    return job;
  }

  private async *events(
    plan: Plan,
    previews: ReadonlySet<number>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<DrawEvent> {
    const { model, features, device } = this;
    const name = { name: this.info.name, sha256: this.info.sha256 };
    const job = this.open(signal);
    const context = { generator: model.generator!, autoencoder: model.autoencoder, features: features!, device, name };
    const events = draw(context, plan, previews, job);
    job.holds(() => events.return());
    try {
      for (;;) {
        const { done, value } = await job.wait(events.next());
        if (done) return;
        yield value;
      }
    } finally {
      void job.close();
    }
  }

  /** Runs a job with one result. */
  private async work<T>(
    options: { readonly signal?: AbortSignal | undefined },
    fn: (job: Job) => Promise<T>,
  ): Promise<T> {
    refuseUnknown(options, ['signal'], 'this call');
    checkSignal(options.signal);
    const job = this.open(options.signal);
    const result = (async () => fn(job))();
    job.holds(() => result);
    try {
      return await job.wait(result);
    } finally {
      void job.close();
    }
  }
}

function disposed(): InfinityError {
  return new InfinityError('DISPOSED', 'The pipeline was disposed.', {
    cure: 'Load it again with InfinityPipeline.fromPretrained().',
  });
}
