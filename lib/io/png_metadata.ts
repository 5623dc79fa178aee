/**
 * What a picture was made from, carried inside a PNG file as an iTXt chunk with the keyword `node-infinity`.
 * Source: PNG specification (Third Edition), sections 5 and 11.3.3.4.
 */
import { crc32, inflateSync } from 'node:zlib';
import { InfinityError } from '../errors.js';
import { parseJson } from './json.js';

/** Anything JSON can hold, under names. */
export type Metadata = Readonly<Record<string, unknown>>;

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const KEYWORD = 'node-infinity';
/** Length, type and checksum around a chunk's data. */
const CHUNK_OVERHEAD = 12;
const MAX_TEXT_BYTES = 1 << 20;

interface Chunk {
  readonly type: string;
  readonly data: Buffer;
  readonly begin: number;
  readonly end: number;
}

function damaged(what: string): InfinityError {
  return new InfinityError('IMAGE_INVALID', `The PNG file is damaged: ${what}.`, {
    cure: 'Use an intact copy of the file.',
  });
}

export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.equals(bytes.subarray(0, SIGNATURE.length));
}

function* chunks(bytes: Uint8Array): Generator<Chunk> {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let begin = SIGNATURE.length;
  while (begin < buffer.length) {
    if (begin + CHUNK_OVERHEAD > buffer.length) throw damaged('it ends inside a chunk');
    const end = begin + CHUNK_OVERHEAD + buffer.readUInt32BE(begin);
    if (end > buffer.length) throw damaged('a chunk is longer than the file');
    const type = buffer.toString('latin1', begin + 4, begin + 8);
    if (begin === SIGNATURE.length && type !== 'IHDR') throw damaged('it does not begin with its header');
    yield { type, data: buffer.subarray(begin + 8, end - 4), begin, end };
    if (type === 'IEND') return;
    begin = end;
  }
  throw damaged('it has no end');
}

function encodeChunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const chunk = Buffer.alloc(body.length + 8);
  chunk.writeUInt32BE(data.length, 0);
  chunk.set(body, 4);
  chunk.writeUInt32BE(crc32(body), chunk.length - 4);
  return chunk;
}

/** The PNG file with `metadata` right behind its header; metadata of ours that it held before is replaced. */
export function insertPngMetadata(png: Uint8Array, metadata: Metadata): Buffer {
  if (!isPng(png)) throw damaged('it has no PNG signature');
  const text = Buffer.from(JSON.stringify(metadata), 'utf8');
  // Keyword, end, compression flag and method, empty language tag and translated keyword, text.
  const data = Buffer.concat([Buffer.from(`${KEYWORD}\0\0\0\0\0`, 'latin1'), text]);
  const parts: Uint8Array[] = [SIGNATURE];
  for (const chunk of chunks(png)) {
    if (ourText(chunk) === undefined) parts.push(png.subarray(chunk.begin, chunk.end));
    if (chunk.type === 'IHDR') parts.push(encodeChunk('iTXt', data));
  }
  return Buffer.concat(parts);
}

/** Flags, language, translated keyword and text of an iTXt chunk with our keyword. */
function ourText({ type, data }: Chunk): Buffer | undefined {
  const key = data.subarray(0, KEYWORD.length + 1).toString('latin1');
  return type === 'iTXt' && key === `${KEYWORD}\0` ? data.subarray(key.length) : undefined;
}

function decodeText(body: Buffer): string {
  const language = body.indexOf(0, 2);
  const translated = language < 0 ? -1 : body.indexOf(0, language + 1);
  if (translated < 0) throw damaged('its metadata is cut off');
  const text = body.subarray(translated + 1);
  // An editor may have compressed the chunk; the limit keeps a small file from unpacking into a large one.
  try {
    return (body[0] === 1 ? inflateSync(text, { maxOutputLength: MAX_TEXT_BYTES }) : text).toString('utf8');
  } catch {
    throw damaged('its metadata cannot be unpacked');
  }
}

/**
 * The metadata that this package wrote into a PNG file, or undefined when there is none or it is no PNG.
 *
 * @throws InfinityError IMAGE_INVALID for a damaged file
 */
export function readPngMetadata(bytes: Uint8Array): Metadata | undefined {
  if (!isPng(bytes)) return undefined;
  for (const chunk of chunks(bytes)) {
    const body = ourText(chunk);
    if (!body) continue;
    const stored = Buffer.from(bytes.buffer, bytes.byteOffset + chunk.end - 4, 4).readUInt32BE();
    if (crc32(Buffer.from(bytes.buffer, bytes.byteOffset + chunk.begin + 4, chunk.data.length + 4)) !== stored) {
      throw damaged('the checksum of its metadata is wrong');
    }
    const value = parseJson(decodeText(body), (what) => damaged(`its metadata ${what}`));
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw damaged('its metadata is no JSON object');
    return value as Metadata;
  }
  return undefined;
}
