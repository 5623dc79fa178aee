/** A picture as bits, and its file. docs/bit-file.md says what each byte means. */
import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { crc32 } from 'node:zlib';
import { InfinityError, invalidArgument } from '../errors.js';
import { STDOUT, writeOutput } from '../io/output_file.js';
import { packedBytes } from '../ops/bits.js';
import { finestGrid, type Scale, type ScaleSchedule, scaleTokens, validateSchedule } from './schedule.js';

/** Which tokenizer made bits: no other can read them. */
export interface TokenizerName {
  /** Of the checkpoint, at most 255 bytes. */
  readonly name: string;
  /** Digest of the tokenizer's weights, 64 hexadecimal digits. */
  readonly sha256: string;
}

export interface BitTokensInit {
  /** Pixels. */
  readonly height: number;
  readonly width: number;
  /** Bits of a latent position. */
  readonly dim: number;
  /** Grids of latent positions of the whole picture, from coarse to fine. */
  readonly schedule: ScaleSchedule;
  /** 0 or 1, [rows, columns, dim] of each scale; the first scales alone are a coarser picture. */
  readonly scales: readonly Uint8Array[];
  readonly tokenizer: TokenizerName;
}

const BIT_FILE_SUFFIX = '.bits';

/** Not text: the first byte is none, and a transfer that translates line ends destroys it. */
const MAGIC = Uint8Array.of(0x89, 0x42, 0x49, 0x54, 0x53, 0x0d, 0x0a, 0x1a);
const VERSION = 1;
/** Bytes of the header before the name. */
const FIXED_BYTES = 56;
const CHECKSUM_BYTES = 4;
const GRID_BYTES = 4;
/** Several times the bits of the largest published picture: bounds what a foreign file can ask for. */
const MAX_BITS = 2 ** 24;
const MAX_DIM = 4096;
const MAX_SIDE = 2 ** 20;

const scaleBits = (scale: Scale, dim: number): number => scaleTokens(scale) * dim;
const headerBytes = (name: number, scales: number): number => FIXED_BYTES + name + GRID_BYTES * scales + CHECKSUM_BYTES;

/** @throws InfinityError INVALID_ARGUMENT unless a picture can have this form */
function checkForm({ height, width, dim, schedule, tokenizer }: Omit<BitTokensInit, 'scales'>): void {
  const refuse = (name: string, expected: string, value: unknown) =>
    invalidArgument(name, expected, value, 'Use bits that a tokenizer encoded.');
  const isCount = (n: unknown, most: number): boolean => Number.isInteger(n) && Number(n) >= 1 && Number(n) <= most;
  if (!isCount(dim, MAX_DIM)) refuse('dim of the bits', `an integer from 1 to ${MAX_DIM}`, dim);
  const [rows, columns] = finestGrid(validateSchedule(schedule, 'the grids of the bits'));
  const fits = isCount(height, MAX_SIDE) && isCount(width, MAX_SIDE) && height % rows === 0;
  if (!fits || (height / rows) * columns !== width)
    refuse('height and width of the bits', `one multiple of the finest grid, ${rows} x ${columns},`, [height, width]);
  const bits = schedule.reduce((sum, scale) => sum + scaleBits(scale, dim), 0);
  if (bits > MAX_BITS) refuse('the grids of the bits', `at most ${MAX_BITS} bits`, bits);
  const { name, sha256 } = (tokenizer ?? {}) as Partial<TokenizerName>;
  if (typeof name !== 'string' || Buffer.byteLength(name) > 255)
    refuse('the name of the tokenizer', 'at most 255 bytes of text', name);
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256))
    refuse('the digest of the tokenizer', '64 hexadecimal digits', sha256);
}

/** A picture as the tokenizer keeps it: every latent position of every scale as `dim` bits. */
export class BitTokens implements BitTokensInit {
  readonly height: number;
  readonly width: number;
  readonly dim: number;
  readonly schedule: ScaleSchedule;
  readonly scales: readonly Uint8Array[];
  readonly tokenizer: TokenizerName;

  /** @throws InfinityError INVALID_ARGUMENT when the parts do not fit together, CHECKPOINT_INVALID for impossible grids */
  constructor(init: BitTokensInit) {
    checkForm((init ?? {}) as BitTokensInit);
    const { height, width, dim, schedule, scales, tokenizer } = init;
    const isScale = (bits: unknown, k: number): boolean =>
      bits instanceof Uint8Array && bits.length === scaleBits(schedule[k]!, dim) && areBits(bits);
    if (!Array.isArray(scales) || scales.length < 1 || scales.length > schedule.length || !scales.every(isScale))
      invalidArgument(
        'the bits',
        `0 or 1 for every position of 1 to ${schedule.length} scales`,
        scales,
        'Use bits that a tokenizer encoded.',
      );
    this.height = height;
    this.width = width;
    this.dim = dim;
    this.schedule = schedule;
    this.scales = scales;
    this.tokenizer = { name: tokenizer.name, sha256: tokenizer.sha256 };
  }

  /** How many bits are here: those of `scales`. */
  get bitCount(): number {
    return this.scales.reduce((sum, bits) => sum + bits.length, 0);
  }

  get bitsPerPixel(): number {
    return this.bitCount / (this.height * this.width);
  }

  /** The first scales alone. @throws InfinityError INVALID_ARGUMENT unless there are as many */
  prefix(scales: number): BitTokens {
    if (!Number.isInteger(scales) || scales < 1 || scales > this.scales.length)
      invalidArgument('scales', `an integer from 1 to ${this.scales.length}, the scales that are here,`, scales);
    return new BitTokens({ ...this, scales: this.scales.slice(0, scales) });
  }

  /** The contents of a bit file. */
  toBytes(): Uint8Array {
    const parts: Uint8Array[] = [];
    let checksum = 0;
    const push = (part: Uint8Array): void => {
      checksum = crc32(part, checksum);
      const ending = Buffer.alloc(CHECKSUM_BYTES);
      ending.writeUInt32LE(checksum);
      parts.push(part, ending);
    };
    push(this.header());
    for (const bits of this.scales) push(pack(bits));
    return Buffer.concat(parts);
  }

  private header(): Uint8Array {
    const name = Buffer.from(this.tokenizer.name, 'utf8');
    const header = Buffer.alloc(headerBytes(name.length, this.schedule.length) - CHECKSUM_BYTES);
    header.set(MAGIC);
    header.writeUInt16LE(VERSION, 8);
    header.writeUInt16LE(this.dim, 10);
    header.writeUInt32LE(this.height, 12);
    header.writeUInt32LE(this.width, 16);
    header.writeUInt8(this.schedule.length, 20);
    header.writeUInt8(name.length, 21);
    header.set(Buffer.from(this.tokenizer.sha256, 'hex'), 24);
    header.set(name, FIXED_BYTES);
    for (const [k, [, rows, columns]] of this.schedule.entries()) {
      header.writeUInt16LE(rows, FIXED_BYTES + name.length + GRID_BYTES * k);
      header.writeUInt16LE(columns, FIXED_BYTES + name.length + GRID_BYTES * k + 2);
    }
    return header;
  }

  /**
   * Writes a bit file, whole or not at all; "-" is standard output.
   *
   * @throws InfinityError INVALID_ARGUMENT for another suffix than ".bits", IO_ERROR, DISK_FULL
   */
  async toFile(path: string): Promise<void> {
    checkBitPath(path);
    await writeOutput(path, [this.toBytes()]);
  }

  /**
   * Reads what `toBytes` wrote. Of a file that was cut off, the scales that are whole.
   *
   * @param name of the file, for messages
   * @throws InfinityError BITS_INVALID naming what is wrong
   */
  static parse(bytes: Uint8Array, name = 'The bit file'): BitTokens {
    if (!(bytes instanceof Uint8Array)) return invalidArgument('the bit file', 'its bytes', bytes);
    return parseFile(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), name);
  }

  /** @throws InfinityError IO_ERROR when the file cannot be read, BITS_INVALID as `parse` does */
  static async fromFile(path: string): Promise<BitTokens> {
    let bytes: Uint8Array;
    try {
      bytes = await readFile(path);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      throw new InfinityError('IO_ERROR', `Cannot read the bits ${path} (${code}).`, {
        value: path,
        cure: code === 'ENOENT' ? 'Check the path.' : 'Check that it is a readable file.',
        cause,
      });
    }
    return BitTokens.parse(bytes, path);
  }
}

/** Whether a file is named as one of bits. */
export function isBitPath(path: string): boolean {
  return extname(path).toLowerCase() === BIT_FILE_SUFFIX;
}

/** @throws InfinityError INVALID_ARGUMENT unless bits may be written under this name */
export function checkBitPath(path: unknown): void {
  if (typeof path !== 'string' || (path !== STDOUT && !isBitPath(path)))
    invalidArgument('the bit file', `a name that ends in ${BIT_FILE_SUFFIX}`, path);
}

/** Eight bits a byte, the first in the most significant place; the last byte is filled up with zeros. */
function pack(bits: Uint8Array): Uint8Array {
  const packed = new Uint8Array(packedBytes(bits.length));
  for (let i = 0; i < bits.length; i++) packed[i >> 3]! |= bits[i]! << (7 - (i & 7));
  return packed;
}

function unpack(packed: Uint8Array, count: number): Uint8Array {
  const bits = new Uint8Array(count);
  for (let at = 0, i = 0; at < count; at += 8, i++) {
    const byte = packed[i]!;
    const last = Math.min(8, count - at);
    for (let bit = 0; bit < last; bit++) bits[at + bit] = (byte >> (7 - bit)) & 1;
  }
  return bits;
}

function areBits(values: Uint8Array): boolean {
  let all = 0;
  for (let i = 0; i < values.length; i++) all |= values[i]!;
  return all <= 1;
}

function parseFile(file: Buffer, path: string): BitTokens {
  const refuse = (what: string, cure = 'Use an intact copy of the file.', cause?: unknown): never => {
    throw new InfinityError('BITS_INVALID', `${path} ${what}.`, { value: path, cure, cause });
  };
  if (!MAGIC.every((byte, i) => file[i] === byte))
    refuse('is no bit file', 'Use a file that "node-infinity encode" wrote.');
  if (file.length < FIXED_BYTES) refuse('ends inside its header');
  const version = file.readUInt16LE(8);
  if (version !== VERSION) refuse(`has version ${version}, this package reads ${VERSION}`, 'Update node-infinity.');
  const [count, nameBytes] = [file.readUInt8(20), file.readUInt8(21)];
  let at = headerBytes(nameBytes, count) - CHECKSUM_BYTES;
  if (file.length < at + CHECKSUM_BYTES) refuse('ends inside its header');
  let checksum = crc32(file.subarray(0, at));
  if (file.readUInt32LE(at) !== checksum) refuse('is damaged: the checksum of its header is wrong');
  at += CHECKSUM_BYTES;
  const name = file.subarray(FIXED_BYTES, FIXED_BYTES + nameBytes);
  const form = {
    ...{ height: file.readUInt32LE(12), width: file.readUInt32LE(16), dim: file.readUInt16LE(10) },
    schedule: Array.from({ length: count }, (_, k): Scale => {
      const grid = FIXED_BYTES + nameBytes + GRID_BYTES * k;
      return [1, file.readUInt16LE(grid), file.readUInt16LE(grid + 2)];
    }),
    tokenizer: {
      name: name.toString('utf8'),
      sha256: file.toString('hex', 24, FIXED_BYTES),
    },
  };
  try {
    if (file.readUInt16LE(22) !== 0) invalidArgument('the reserved bytes', '0', file.readUInt16LE(22));
    if (!isUtf8(name)) invalidArgument('the name of the tokenizer', 'UTF-8', form.tokenizer.name);
    checkForm(form);
  } catch (cause) {
    refuse(`has a header that no picture has: ${(cause as InfinityError).message}`, undefined, cause);
  }
  const scales: Uint8Array[] = [];
  for (const [k, scale] of form.schedule.entries()) {
    const bits = scaleBits(scale, form.dim);
    const end = at + packedBytes(bits);
    // Cut off: what is whole is a coarser picture.
    if (file.length < end + CHECKSUM_BYTES) break;
    const packed = file.subarray(at, end);
    checksum = crc32(packed, checksum);
    const sound = checksum === file.readUInt32LE(end);
    const filled = bits % 8 === 0 || (packed.at(-1)! & (0xff >> (bits % 8))) === 0;
    if (!sound || !filled)
      refuse(
        `is damaged: ${sound ? 'the last byte' : 'the checksum'} of scale ${k + 1} of ${count} is wrong`,
        `Use an intact copy of the file${k > 0 ? `, or its first ${at} bytes, which hold ${k} sound scales` : ''}.`,
      );
    scales.push(unpack(packed, bits));
    at = end + CHECKSUM_BYTES;
  }
  if (scales.length === 0) refuse('ends inside its first scale');
  if (scales.length === count && at < file.length) refuse(`has ${file.length - at} bytes behind its last scale`);
  return new BitTokens({ ...form, scales });
}
