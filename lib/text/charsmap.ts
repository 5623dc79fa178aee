/**
 * The precompiled character map of sentencepiece: a double-array trie from source strings to replacements.
 * Layout: 4 bytes little-endian trie size, the trie's 32-bit units, then the replacements, each ended by a zero byte.
 */
import { expectTokenizer, invalidTokenizer } from './tokenizer_json.js';

/** Longer grapheme clusters (in UTF-8 bytes) are mapped character by character. */
const MAX_CLUSTER_BYTES = 6;

/**
 * Printable ASCII between its own kind: every character is a cluster, so that the segmenter, which takes microseconds
 * a character, is left out. Beside other characters it may belong to their cluster.
 */
const PLAIN_RUN = /(?<=^|[ -~])[ -~]+(?=[ -~]|$)/g;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class CharsMap {
  private readonly units: Uint32Array;
  private readonly replacements: Uint8Array;
  /** Printable ASCII characters -> what they become. */
  private readonly plain = new Map<string, string>();
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
    for (let code = 0x20; code < 0x7f; code++) {
      const character = String.fromCharCode(code);
      this.plain.set(character, this.normalizeCluster(character));
    }
  }

  /** Replaces every cluster, or character of a long cluster, that the map has an entry for. */
  normalize(text: string): string {
    let out = '';
    let from = 0;
    for (const { 0: run, index } of text.matchAll(PLAIN_RUN)) {
      out += this.normalizeClusters(text.slice(from, index));
      for (const character of run) out += this.plain.get(character);
      from = index + run.length;
    }
    return out + this.normalizeClusters(text.slice(from));
  }

  private normalizeClusters(text: string): string {
    let out = '';
    if (text !== '') for (const { segment } of this.graphemes.segment(text)) out += this.normalizeCluster(segment);
    return out;
  }

  private normalizeCluster(cluster: string): string {
    const mapped = encoder.encode(cluster).length < MAX_CLUSTER_BYTES ? this.replacement(cluster) : undefined;
    if (mapped !== undefined) return mapped;
    let out = '';
    for (const character of cluster) out += this.replacement(character) ?? character;
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
