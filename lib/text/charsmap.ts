/**
 * The precompiled character map of sentencepiece: a double-array trie from source strings to replacements.
 * Layout: 4 bytes little-endian trie size, the trie's 32-bit units, then the replacements, each ended by a zero byte.
 */
import { expectTokenizer, invalidTokenizer } from './tokenizer_json.js';

/** Longer grapheme clusters (in UTF-8 bytes) are mapped character by character. */
const MAX_CLUSTER_BYTES = 6;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class CharsMap {
  private readonly units: Uint32Array;
  private readonly replacements: Uint8Array;
  private readonly graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });

  /** @throws InfinityError CHECKPOINT_INVALID when the sizes do not fit */
  constructor(bytes: Uint8Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = bytes.byteLength >= 4 ? view.getUint32(0, true) : 0;
    expectTokenizer(
      size >= 4 && size % 4 === 0 && 4 + size <= bytes.byteLength,
      'a whole precompiled_charsmap',
      bytes.byteLength,
    );
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.replacements = bytes.subarray(4 + size);
  }

  /** Replaces every cluster, or character of a long cluster, that the map has an entry for. */
  normalize(text: string): string {
    let out = '';
    for (const { segment } of this.graphemes.segment(text)) {
      const mapped = encoder.encode(segment).length < MAX_CLUSTER_BYTES ? this.replacement(segment) : undefined;
      if (mapped !== undefined) out += mapped;
      else for (const character of segment) out += this.replacement(character) ?? character;
    }
    return out;
  }

  /** What the shortest entry that begins `text` maps to. The rest of `text` is dropped, as the original does. */
  private replacement(text: string): string | undefined {
    const at = this.shortestPrefix(encoder.encode(text));
    if (at === undefined) return undefined;
    const end = this.replacements.indexOf(0, at);
    if (at > this.replacements.length || end < 0) throw invalidTokenizer('a valid precompiled_charsmap', at);
    return decoder.decode(this.replacements.subarray(at, end));
  }

  /** Unit layout: label in bits 0-7 and 31, leaf flag bit 8, offset in bits 10-30, shifted by 8 more under bit 9. */
  private shortestPrefix(key: Uint8Array): number | undefined {
    let at = this.children(0);
    for (const byte of key) {
      if (byte === 0) return undefined;
      at ^= byte;
      const unit = this.unit(at);
      if ((unit & 0x800000ff) >>> 0 !== byte) return undefined;
      at = this.children(at);
      if (unit & 0x100) return this.unit(at) & 0x7fffffff;
    }
    return undefined;
  }

  private children(at: number): number {
    const unit = this.unit(at);
    return (at ^ ((unit >>> 10) << ((unit & 0x200) >>> 6))) >>> 0;
  }

  private unit(at: number): number {
    if (at >= this.units.length) throw invalidTokenizer('a valid precompiled_charsmap', at);
    return this.units[at];
  }
}
