/** Pictures in and out: decoding, encoding, files. The codec library is loaded when it is first needed. */
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type Sharp from 'sharp';
import { describe, InfinityError, invalidArgument } from '../errors.js';
import { STDOUT, writeOutput } from './output_file.js';
import type { Pixels } from './pixels.js';
import { insertPngMetadata, type Metadata, readPngMetadata } from './png_metadata.js';

export const IMAGE_FORMATS = ['png', 'jpeg', 'webp', 'avif'] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

const EXTENSIONS: Readonly<Record<string, ImageFormat>> = {
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.webp': 'webp',
  '.avif': 'avif',
};

export interface EncodeOptions {
  /** 1 to 100, for jpeg, webp and avif. Default 90 (avif 60). */
  readonly quality?: number;
}

export interface ImageInit extends Pixels {
  readonly seed?: number;
  readonly metadata?: Metadata;
}

let codec: Promise<typeof Sharp> | undefined;

/**
 * Loads the codec library, once. Called by whatever needs it; calling it while a device computes hides the time it takes.
 *
 * @throws InfinityError IO_ERROR when it is not installed for this platform
 */
export function loadImageCodec(): Promise<typeof Sharp> {
  codec ??= import('sharp').then(
    (module) => module.default,
    (cause) => {
      codec = undefined;
      throw new InfinityError('IO_ERROR', 'Cannot load sharp, which reads and writes pictures.', {
        cure: 'Run "npm install sharp" for this platform.',
        cause,
      });
    },
  );
  return codec;
}

function unknownFormat(value: unknown): never {
  return invalidArgument(
    'image format',
    `one of ${IMAGE_FORMATS.join(', ')}`,
    value,
    'Use such a file name extension.',
  );
}

/** Whether a file name has the extension of a picture. */
export function isImagePath(path: string): boolean {
  return extname(path).toLowerCase() in EXTENSIONS;
}

/** The format that a file name asks for by its extension; standard output gets PNG. */
export function formatOfPath(path: string): ImageFormat {
  if (path === STDOUT) return 'png';
  return EXTENSIONS[extname(path).toLowerCase()] ?? unknownFormat(path);
}

/** An RGB picture with what it was made from. */
export class Image implements Pixels {
  readonly width: number;
  readonly height: number;
  /** RGB bytes, [height, width, 3]. */
  readonly data: Uint8Array;
  /** The seed that draws this picture again, when it was generated. */
  readonly seed: number | undefined;
  /** What it was made from: prompt and settings. Travels inside PNG files. */
  readonly metadata: Metadata;

  /** @throws InfinityError IMAGE_INVALID when `data` does not hold width x height RGB pixels */
  constructor({ width, height, data, seed, metadata = {} }: ImageInit) {
    if (
      !Number.isInteger(width) ||
      !Number.isInteger(height) ||
      width < 1 ||
      height < 1 ||
      data.length !== width * height * 3
    ) {
      throw new InfinityError(
        'IMAGE_INVALID',
        `Expected ${width} x ${height} RGB pixels but received ${data.length} bytes.`,
        {
          value: [width, height],
          cure: 'Pass width * height * 3 bytes.',
        },
      );
    }
    this.width = width;
    this.height = height;
    this.data = data;
    this.seed = seed;
    this.metadata = metadata;
  }

  /** The picture as a file of the given format. Only PNG carries `seed` and `metadata`; PNG is lossless. */
  async toBuffer(format: ImageFormat = 'png', { quality }: EncodeOptions = {}): Promise<Buffer> {
    if (!IMAGE_FORMATS.includes(format)) unknownFormat(format);
    if (quality !== undefined && !(Number.isInteger(quality) && quality >= 1 && quality <= 100)) {
      invalidArgument('quality', 'an integer from 1 to 100', quality);
    }
    const sharp = await loadImageCodec();
    const picture = sharp(this.data, { raw: { width: this.width, height: this.height, channels: 3 } });
    switch (format) {
      case 'jpeg':
        return picture.jpeg({ quality: quality ?? 90, chromaSubsampling: '4:4:4' }).toBuffer();
      case 'webp':
        return picture.webp({ quality: quality ?? 90 }).toBuffer();
      case 'avif':
        return picture.avif({ quality: quality ?? 60 }).toBuffer();
      default: {
        const png = await picture.png().toBuffer();
        const metadata = this.seed === undefined ? this.metadata : { ...this.metadata, seed: this.seed };
        return Object.keys(metadata).length > 0 ? insertPngMetadata(png, metadata) : png;
      }
    }
  }

  /**
   * Writes the picture in the format of the file name's extension (or `format`), atomically; "-" is standard output.
   *
   * @throws InfinityError INVALID_ARGUMENT for an unknown extension, IO_ERROR, DISK_FULL
   */
  async toFile(path: string, options: EncodeOptions & { readonly format?: ImageFormat } = {}): Promise<void> {
    const encoded = await this.toBuffer(options.format ?? formatOfPath(path), options);
    await writeOutput(path, [encoded]);
  }
}

async function readSource(source: string | Uint8Array): Promise<Uint8Array> {
  if (typeof source === 'string') return readImageFile(source);
  if (source instanceof Uint8Array) return source;
  return invalidArgument('image', 'a path or the bytes of a file', source);
}

/** The bytes of a picture file. @throws InfinityError IO_ERROR */
export async function readImageFile(source: string): Promise<Uint8Array> {
  try {
    return await readFile(source);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    throw new InfinityError('IO_ERROR', `Cannot read the image ${source} (${code}).`, {
      value: source,
      cure: code === 'ENOENT' ? 'Check the path.' : 'Check that it is a readable file.',
      cause,
    });
  }
}

/**
 * Decodes a picture file (or its bytes) into RGB. The orientation tag is applied, transparency is dropped, and the
 * metadata of our own PNG files is read back.
 *
 * @throws InfinityError IO_ERROR when the file cannot be read, IMAGE_INVALID when it holds no picture
 */
export async function loadImage(source: string | Uint8Array): Promise<Image> {
  const bytes = await readSource(source);
  const name = typeof source === 'string' ? source : `${bytes.byteLength} bytes`;
  const sharp = await loadImageCodec();
  let decoded: Awaited<ReturnType<typeof decode>>;
  try {
    decoded = await decode(sharp, bytes);
  } catch (cause) {
    throw new InfinityError('IMAGE_INVALID', `Expected an image but cannot decode ${describe(name)}.`, {
      value: name,
      cure: 'Use a PNG, JPEG, WebP, AVIF, GIF or TIFF file.',
      cause,
    });
  }
  const metadata = readPngMetadata(bytes) ?? {};
  const seed = typeof metadata.seed === 'number' ? metadata.seed : undefined;
  return new Image({ ...decoded, metadata, seed });
}

/** Height and width of a picture file as `loadImage` gives them, from its header; nothing where it cannot be read. */
export async function readImageSize(path: string): Promise<readonly [height: number, width: number] | undefined> {
  const sharp = await loadImageCodec();
  try {
    const { autoOrient } = await sharp(path).metadata();
    return [autoOrient.height, autoOrient.width];
  } catch {
    return undefined;
  }
}

async function decode(sharp: typeof Sharp, bytes: Uint8Array): Promise<Pixels> {
  const pipeline = sharp(bytes, { failOn: 'error' }).autoOrient().toColourspace('srgb').removeAlpha();
  const { data, info } = await pipeline.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data };
}
