/**
 * The header of a safetensors file: 8 bytes little-endian length, JSON, then the tensors' bytes without gaps.
 * Everything here is checked before a byte of data is touched, because files come from strangers.
 */
import { InfinityError } from '../errors.js';
import { DTYPE_BYTES, elementCount, formatInfo, type TensorDType, type TensorInfo } from './tensor_data.js';

/** Where a tensor lies, in bytes from the start of the file. */
export interface TensorEntry extends TensorInfo {
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their data. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

export const LENGTH_BYTES = 8;
/** The limit that the format's own library sets. */
export const MAX_HEADER_BYTES = 100_000_000;
const MAX_DEPTH = 8;
const MAX_RANK = 16;

export function invalidFile(file: string, what: string, value?: unknown): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${file} is not a valid safetensors file: ${what}.`, {
    value: value ?? file,
    cure: 'Download or write the file again.',
  });
}

/** Header bytes declared by the first eight bytes, checked against the size of the file. */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.byteLength < LENGTH_BYTES) throw invalidFile(file, `it has only ${fileBytes} bytes`);
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) throw invalidFile(file, `its header claims ${length} bytes`);
  if (LENGTH_BYTES + Number(length) > fileBytes) {
    throw invalidFile(file, `its header claims ${length} bytes but the file has ${fileBytes}`);
  }
  return Number(length);
}

/** JSON.parse keeps the last of two equal keys silently; this finds them, and nesting too deep to be a header. */
function checkKeys(json: string, file: string): void {
  const seen: Set<string>[] = [];
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/gs;
  for (let match = token.exec(json); match; match = token.exec(json)) {
    const [text, colon] = match;
    if (text === '{' || text === '[') {
      seen.push(new Set());
      if (seen.length > MAX_DEPTH) throw invalidFile(file, 'its header is nested too deeply');
    } else if (text === '}' || text === ']') {
      seen.pop();
    } else if (colon !== undefined) {
      const key = String(JSON.parse(text.slice(0, text.length - colon.length)));
      const keys = seen.at(-1);
      if (keys?.has(key)) throw invalidFile(file, `"${key}" occurs twice in its header`, key);
      keys?.add(key);
    }
  }
}

function parseObject(json: string, file: string): Record<string, unknown> {
  let value: unknown;
  try {
    checkKeys(json, file);
    value = JSON.parse(json);
  } catch (cause) {
    if (cause instanceof InfinityError) throw cause;
    throw invalidFile(file, 'its header is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalidFile(file, 'its header is no JSON object');
  return value as Record<string, unknown>;
}

function isCount(n: unknown): n is number {
  return Number.isSafeInteger(n) && (n as number) >= 0;
}

function parseEntry(name: string, value: unknown, dataStart: number, file: string): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype))
    throw invalidFile(file, `"${name}" has the unknown type ${String(dtype)}`, name);
  if (!Array.isArray(shape) || shape.length > MAX_RANK || !shape.every(isCount))
    throw invalidFile(file, `"${name}" has no valid shape`, name);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    throw invalidFile(file, `"${name}" has no valid data_offsets`, name);
  const [begin, end] = offsets as [number, number];
  const info: TensorInfo = { dtype: dtype as TensorDType, shape: shape as number[] };
  const bytes = elementCount(info.shape) * DTYPE_BYTES[info.dtype];
  if (end - begin !== bytes)
    throw invalidFile(file, `"${name}" is ${formatInfo(info)} but spans ${end - begin} bytes`, name);
  return { ...info, begin: dataStart + begin, end: dataStart + end };
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  if (value === undefined) return {};
  if (typeof value !== 'object' || value === null || Object.values(value).some((v) => typeof v !== 'string')) {
    throw invalidFile(file, 'its __metadata__ is not a map of strings');
  }
  return value as Record<string, string>;
}

/**
 * Parses and checks a header: known types, sane shapes, sizes that agree, data without overlap, gap or missing tail.
 *
 * @param json the header's bytes; `fileBytes` the size of the whole file; `file` its name for messages
 * @throws InfinityError CHECKPOINT_INVALID naming the file and the tensor
 */
export function parseHeader(json: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(json);
  } catch {
    throw invalidFile(file, 'its header is not UTF-8');
  }
  const { __metadata__, ...entries } = parseObject(text, file);
  const dataStart = LENGTH_BYTES + json.byteLength;
  const tensors = Object.entries(entries).map(
    ([name, value]) => [name, parseEntry(name, value, dataStart, file)] as const,
  );
  tensors.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let at = dataStart;
  for (const [name, { begin, end }] of tensors) {
    if (begin < at) throw invalidFile(file, `"${name}" overlaps another tensor`, name);
    if (begin > at) throw invalidFile(file, `there is a gap of ${begin - at} bytes before "${name}"`, name);
    at = end;
  }
  if (at > fileBytes) throw invalidFile(file, `it is truncated: its tensors need ${at} bytes but it has ${fileBytes}`);
  if (at < fileBytes) throw invalidFile(file, `${fileBytes - at} bytes follow its last tensor`);
  return { tensors: new Map(tensors), metadata: parseMetadata(__metadata__, file) };
}
