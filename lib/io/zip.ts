/**
 * Zip archives as PyTorch writes them: stored entries only, zip64 where sizes ask for it. Everything is checked against the
 * size of the archive before a byte of content is read, because files come from strangers; nothing is ever unpacked to disk.
 * Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
 */
import { crc32 } from 'node:zlib';
import { InfinityError } from '../errors.js';
import type { ByteSource } from './byte_source.js';

export interface ZipEntry {
  readonly name: string;
  readonly size: number;
  readonly crc: number;
  /** Where its local header lies. */
  readonly offset: number;
  /** Where the next entry or the directory begins: its content must end before. */
  readonly limit: number;
}

const LOCAL_BYTES = 30;
const ENTRY_BYTES = 46;
const END_BYTES = 22;
const LOCATOR_BYTES = 20;
const END64_BYTES = 56;
/** A directory of some 200,000 entries. */
const MAX_DIRECTORY_BYTES = 1 << 24;
/** What a checksum is computed over at a time when the content itself is not wanted. */
const CHECK_BYTES = 1 << 22;

export function invalidZip(archive: string, what: string, cure = 'Download or write the file again.'): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${archive} is not a valid zip archive: ${what}.`, {
    value: archive,
    cure,
  });
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A 64-bit number; what is too large to be a place in a file stays too large. */
function uint64(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

interface Directory {
  readonly count: number;
  readonly begin: number;
  readonly end: number;
}

/** Finds the directory from the end of the archive. A comment after it is refused: it could hold a second directory. */
async function findDirectory(source: ByteSource): Promise<Directory> {
  const { name, size } = source;
  const refuse = (what: string): never => {
    throw invalidZip(name, what);
  };
  const tailBytes = Math.min(size, END_BYTES + LOCATOR_BYTES);
  const tail = viewOf(await source.read(size - tailBytes, tailBytes));
  const end = tailBytes - END_BYTES;
  if (end < 0 || tail.getUint32(end, true) !== 0x06054b50) return refuse('it does not end in a directory');
  if (tail.getUint32(end + 4, true) !== 0) return refuse('it has several parts');
  const short = { count: tail.getUint16(end + 10, true), bytes: tail.getUint32(end + 12, true) };
  const begin = tail.getUint32(end + 16, true);
  if (tail.getUint16(end + 8, true) !== short.count) return refuse('its directory has several parts');
  if (tail.getUint16(end + 20, true) !== 0) return refuse('it has a comment');
  const has64 = end === LOCATOR_BYTES && tail.getUint32(0, true) === 0x07064b50;
  if (!has64) return checkedDirectory({ count: short.count, begin, end: size - END_BYTES }, short.bytes, refuse);

  const at = uint64(tail, 8);
  if (at + END64_BYTES !== size - tailBytes) return refuse('its zip64 directory end is misplaced');
  const end64 = viewOf(await source.read(at, END64_BYTES));
  if (end64.getUint32(0, true) !== 0x06064b50 || uint64(end64, 4) !== END64_BYTES - 12)
    return refuse('its zip64 directory end is malformed');
  const long = { count: uint64(end64, 32), bytes: uint64(end64, 40), begin: uint64(end64, 48) };
  const disagrees = (small: number, most: number, large: number) => small !== most && small !== large;
  if (
    uint64(end64, 24) !== long.count ||
    disagrees(short.count, 0xffff, long.count) ||
    disagrees(short.bytes, 0xffffffff, long.bytes) ||
    disagrees(begin, 0xffffffff, long.begin)
  )
    return refuse('its two directory ends disagree');
  return checkedDirectory({ count: long.count, begin: long.begin, end: at }, long.bytes, refuse);
}

function checkedDirectory(directory: Directory, bytes: number, refuse: (what: string) => never): Directory {
  const { count, begin, end } = directory;
  if (begin + bytes !== end) refuse(`its directory claims ${bytes} bytes at ${begin} but ends at ${end}`);
  if (bytes > MAX_DIRECTORY_BYTES) refuse(`its directory claims ${bytes} bytes`);
  if (count * ENTRY_BYTES > bytes) refuse(`its directory claims ${count} entries in ${bytes} bytes`);
  return directory;
}

/** The parts of a path inside the archive, none of which may lead anywhere but down. */
function checkName(name: string, archive: string): void {
  const parts = name.split('/');
  const bad = parts.some((part) => part === '' || part === '.' || part === '..');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (bad || /[\\:\u0000-\u001f]/.test(name)) throw invalidZip(archive, `an entry is named ${JSON.stringify(name)}`);
}

/** The zip64 field of an entry replaces those of its numbers that are all ones, in this order. */
function widen(extra: DataView, numbers: number[], refuse: (what: string) => never): number[] {
  const wanting = numbers.filter((n) => n === 0xffffffff).length;
  if (wanting === 0) return numbers;
  for (let at = 0; at + 4 <= extra.byteLength; ) {
    const [id, length] = [extra.getUint16(at, true), extra.getUint16(at + 2, true)];
    at += 4;
    if (at + length > extra.byteLength) break;
    if (id === 1 && length >= 8 * wanting) {
      let next = at - 8;
      const field = () => {
        next += 8;
        return uint64(extra, next);
      };
      return numbers.map((n) => (n === 0xffffffff ? field() : n));
    }
    at += length;
  }
  return refuse('the zip64 sizes of an entry are missing');
}

function parseEntries(bytes: Uint8Array, { count, begin }: Directory, archive: string): Map<string, ZipEntry> {
  const view = viewOf(bytes);
  const utf8 = new TextDecoder('utf-8', { fatal: true });
  const refuse = (what: string): never => {
    throw invalidZip(archive, what);
  };
  const found: (Omit<ZipEntry, 'limit'> & { least: number })[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + ENTRY_BYTES > bytes.byteLength || view.getUint32(at, true) !== 0x02014b50)
      refuse(`entry ${i} of its directory is malformed`);
    const nameEnd = at + ENTRY_BYTES + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    const end = extraEnd + view.getUint16(at + 32, true);
    if (end > bytes.byteLength) refuse(`entry ${i} of its directory is cut off`);
    const nameBytes = bytes.subarray(at + ENTRY_BYTES, nameEnd);
    let name = '';
    try {
      name = utf8.decode(nameBytes);
    } catch {
      refuse(`the name of entry ${i} is not UTF-8`);
    }
    checkName(name, archive);
    if (view.getUint16(at + 8, true) & 1) refuse(`"${name}" is encrypted`);
    if (view.getUint16(at + 10, true) !== 0)
      throw invalidZip(archive, `"${name}" is compressed`, 'Write it again with torch.save, which never compresses.');
    const numbers = [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)];
    const extra = new DataView(bytes.buffer, bytes.byteOffset + nameEnd, extraEnd - nameEnd);
    const [size = 0, packed = 0, offset = 0] = widen(extra, numbers, refuse);
    if (size !== packed) refuse(`"${name}" is stored but has two sizes`);
    found.push({ name, size, crc: view.getUint32(at + 16, true), offset, least: LOCAL_BYTES + nameBytes.byteLength });
    at = end;
  }
  if (at !== bytes.byteLength) refuse('its directory is longer than its entries');

  found.sort((a, b) => a.offset - b.offset);
  const entries = new Map<string, ZipEntry>();
  for (const [i, { least, ...entry }] of found.entries()) {
    const limit = found[i + 1]?.offset ?? begin;
    if (entry.offset + least + entry.size > limit) refuse(`"${entry.name}" overlaps what follows it`);
    if (entries.has(entry.name)) refuse(`"${entry.name}" occurs twice`);
    entries.set(entry.name, { ...entry, limit });
  }
  return entries;
}

/** A zip archive of which only the directory is in memory. */
export class ZipArchive {
  private readonly verified = new Set<string>();

  private constructor(
    private readonly source: ByteSource,
    /** In the order of their content. */
    readonly entries: ReadonlyMap<string, ZipEntry>,
  ) {}

  /**
   * Reads and checks the directory: plain relative names, each once, stored, without overlap, all inside the archive.
   * @throws InfinityError CHECKPOINT_INVALID naming the archive and the entry
   */
  static async open(source: ByteSource): Promise<ZipArchive> {
    const directory = await findDirectory(source);
    const bytes = await source.read(directory.begin, directory.end - directory.begin);
    return new ZipArchive(source, parseEntries(bytes, directory, source.name));
  }

  /**
   * The bytes [begin, end) of an entry's content. The checksum of the entry is verified the first time any of it is read: of a
   * part, by a pass over the rest that keeps nothing.
   *
   * @throws InfinityError CHECKPOINT_INVALID when the entry contradicts the directory or its checksum
   */
  async read(entry: ZipEntry, begin = 0, end = entry.size): Promise<Uint8Array> {
    const at = await this.contentOf(entry);
    const bytes = await this.source.read(at + begin, end - begin);
    if (!this.verified.has(entry.name)) {
      const whole = end - begin === entry.size;
      const crc = whole ? crc32(bytes) : await this.checksum(at, entry.size);
      if (crc !== entry.crc) throw invalidZip(this.source.name, `the checksum of "${entry.name}" is wrong`);
      this.verified.add(entry.name);
    }
    return bytes;
  }

  private async checksum(begin: number, length: number): Promise<number> {
    let crc = 0;
    for (let at = 0; at < length; at += CHECK_BYTES)
      crc = crc32(await this.source.read(begin + at, Math.min(CHECK_BYTES, length - at)), crc);
    return crc;
  }

  /** Where the content of an entry begins, which only its local header tells. */
  private async contentOf({ name, size, offset, limit }: ZipEntry): Promise<number> {
    const expected = Buffer.from(name);
    const header = await this.source.read(offset, LOCAL_BYTES + expected.byteLength);
    const view = viewOf(header);
    const agrees =
      view.getUint32(0, true) === 0x04034b50 &&
      view.getUint16(8, true) === 0 &&
      view.getUint16(26, true) === expected.byteLength &&
      expected.equals(header.subarray(LOCAL_BYTES));
    if (!agrees) throw invalidZip(this.source.name, `the local header of "${name}" contradicts the directory`);
    const begin = offset + header.byteLength + view.getUint16(28, true);
    if (begin + size > limit) throw invalidZip(this.source.name, `"${name}" overlaps what follows it`);
    return begin;
  }
}
