import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { BitTokens } from '../../../lib/tokenizer/bit_file.js';
import type { FuzzTarget } from '../target.js';

const SHA256 = '0123456789abcdef'.repeat(4);
const HEADER_BYTES = 56;

function tokens(
  dim: number,
  stride: number,
  grids: readonly (readonly [number, number])[],
  kept = grids.length,
): BitTokens {
  const schedule = grids.map(([h, w]) => [1, h, w] as const);
  const [h, w] = grids.at(-1)!;
  const scales = grids.slice(0, kept).map(([h, w]) => Uint8Array.from({ length: h * w * dim }, (_, i) => (i * 7) & 1));
  return new BitTokens({
    height: h * stride,
    width: w * stride,
    dim,
    schedule,
    scales,
    tokenizer: { name: 'shapes', sha256: SHA256 },
  });
}

export const bits: FuzzTarget = {
  name: 'bits',
  seeds() {
    const squares = [1, 2, 4, 8, 16].map((n) => [n, n] as const);
    return [
      tokens(32, 16, squares).toBytes(),
      tokens(14, 8, [
        [1, 1],
        [1, 2],
        [3, 5],
      ]).toBytes(),
      tokens(5, 16, squares, 2).toBytes(),
      tokens(1, 1, [[1, 1]]).toBytes(),
    ];
  },
  read(file) {
    const read = BitTokens.parse(file);
    return () => {
      const written = read.toBytes();
      assert.ok(
        Buffer.from(file.subarray(0, written.byteLength)).equals(written),
        'what was read is what stands in the file',
      );
      assert.equal(BitTokens.parse(written).bitCount, read.bitCount);
    };
  },
  /** The checksums where the header says that they are. */
  repair(file) {
    const bytes = Buffer.from(file);
    if (bytes.length < HEADER_BYTES) return bytes;
    const [scales, name] = [bytes[20]!, bytes[21]!];
    let [begin, end, checksum] = [0, HEADER_BYTES + name + 4 * scales, 0];
    for (let k = 0; k <= scales && end + 4 <= bytes.length; k++) {
      checksum = crc32(bytes.subarray(begin, end), checksum);
      bytes.writeUInt32LE(checksum, end);
      begin = end + 4;
      const grid = HEADER_BYTES + name + 4 * k;
      if (k < scales)
        end = begin + Math.ceil((bytes.readUInt16LE(grid) * bytes.readUInt16LE(grid + 2) * bytes.readUInt16LE(10)) / 8);
    }
    return bytes;
  },
};
