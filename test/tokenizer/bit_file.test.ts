import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { BitTokens, type BitTokensInit } from '../../lib/tokenizer/bit_file.js';
import { parseGrids } from '../../lib/tokenizer/schedule.js';

const TOKENIZER = { name: 'shapes', sha256: '00112233445566778899aabbccddeeff'.repeat(2) };

/** Pictures of any form, with the first of their scales. */
const pictures: fc.Arbitrary<BitTokens> = fc
  .record({
    grids: fc.array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 })), {
      minLength: 1,
      maxLength: 4,
    }),
    ...{
      dim: fc.integer({ min: 1, max: 20 }),
      stride: fc.integer({ min: 1, max: 16 }),
      cut: fc.nat(3),
      seed: fc.nat(),
    },
    name: fc.string({ unit: 'grapheme', maxLength: 20 }),
  })
  .map(({ grids, dim, stride, cut, seed, name }) => {
    const finest = [Math.max(...grids.map(([h]) => h)), Math.max(...grids.map(([, w]) => w))] as const;
    const schedule = [...grids, finest].map(([h, w]) => [1, h, w] as const);
    const bit = (i: number): number => (Math.imul(i + seed, 0x9e3779b1) >>> 13) & 1;
    const scales = schedule.map(([, h, w], k) => Uint8Array.from({ length: h * w * dim }, (_, i) => bit(31 * i + k)));
    const [height, width] = [finest[0] * stride, finest[1] * stride];
    const kept = Math.max(1, scales.length - cut);
    return new BitTokens({
      height,
      width,
      dim,
      schedule,
      scales: scales.slice(0, kept),
      tokenizer: { ...TOKENIZER, name },
    });
  });

const plain = ({ height, width, dim, schedule, scales, tokenizer }: BitTokens): BitTokensInit => ({
  ...{ height, width, dim, schedule, tokenizer },
  scales: scales.map((bits) => Uint8Array.from(bits)),
});

const small = new BitTokens({
  ...{ height: 16, width: 24, dim: 3, schedule: parseGrids('1 2x3'), tokenizer: TOKENIZER },
  scales: [Uint8Array.of(1, 0, 1), Uint8Array.from({ length: 18 }, (_, i) => (i >> 1) & 1)],
});

const refuses = (bytes: Uint8Array, message: RegExp): void =>
  assert.throws(() => BitTokens.parse(bytes, 'a.bits'), { name: 'InfinityError', code: 'BITS_INVALID', message });

/** A copy with the bytes changed, and the checksum of the header made right again. */
function changed(change: (view: DataView) => void): Uint8Array {
  const bytes = Uint8Array.from(small.toBytes());
  const view = new DataView(bytes.buffer);
  const header = 56 + 6 + 2 * 4;
  change(view);
  view.setUint32(header, crc32(bytes.subarray(0, header)), true);
  return bytes;
}

describe('bit files', () => {
  it('have the bytes that their description says', () => {
    const header = Buffer.concat([
      Buffer.from([0x89, 0x42, 0x49, 0x54, 0x53, 0x0d, 0x0a, 0x1a]),
      Buffer.from([1, 0, 3, 0, 16, 0, 0, 0, 24, 0, 0, 0, 2, 6, 0, 0]),
      Buffer.from(TOKENIZER.sha256, 'hex'),
      Buffer.from('shapes'),
      Buffer.from([1, 0, 1, 0, 2, 0, 3, 0]),
    ]);
    const word = (value: number): Buffer => {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(value);
      return bytes;
    };
    const coarse = Buffer.from([0b10100000]);
    const fine = Buffer.from([0b00110011, 0b00110011, 0b00000000]);
    const expected = [header, word(crc32(header)), coarse, word(crc32(Buffer.concat([header, coarse])))];
    expected.push(fine, word(crc32(Buffer.concat([header, coarse, fine]))));
    assert.deepEqual(Buffer.from(small.toBytes()), Buffer.concat(expected));
  });

  it('give back what was written, whatever the form', () => {
    fc.assert(
      fc.property(pictures, (tokens) => {
        const bytes = tokens.toBytes();
        const read = BitTokens.parse(bytes);
        assert.deepEqual(plain(read), plain(tokens));
        assert.deepEqual(read.toBytes(), bytes);
        const packed = tokens.scales.reduce((sum, bits) => sum + Math.ceil(bits.length / 8) + 4, 0);
        const name = Buffer.byteLength(tokens.tokenizer.name);
        assert.equal(bytes.length, 60 + name + 4 * tokens.schedule.length + packed);
      }),
    );
  });

  it('are read as far as they are whole when they were cut off', () => {
    fc.assert(
      fc.property(pictures, fc.double({ min: 0, max: 1, noNaN: true }), (tokens, share) => {
        const bytes = tokens.toBytes();
        const first = tokens.prefix(1).toBytes().length;
        const length = Math.floor(first + share * (bytes.length - first));
        const read = BitTokens.parse(bytes.subarray(0, length));
        const whole = tokens.scales.filter((_, k) => tokens.prefix(k + 1).toBytes().length <= length).length;
        assert.deepEqual(plain(read), plain(tokens.prefix(whole)));
      }),
    );
    for (let length = 0; length < small.prefix(1).toBytes().length; length++)
      refuses(small.toBytes().subarray(0, length), /no bit file|ends inside its (header|first scale)/);
  });

  it('are refused when any bit of them is wrong', () => {
    const bytes = small.toBytes();
    for (let i = 0; i < bytes.length * 8; i++) {
      const broken = Uint8Array.from(bytes);
      broken[i >> 3]! ^= 1 << (i & 7);
      refuses(broken, /^a\.bits (is no bit file|has version|is damaged|ends inside)/);
    }
  });

  it('are refused by name when they cannot be of a picture', () => {
    const wrong: [RegExp, (view: DataView) => void][] = [
      [/has version 2, this package reads 1/, (v) => v.setUint16(8, 2, true)],
      [/integer from 1 to 4096 for dim .* received 0/, (v) => v.setUint16(10, 0, true)],
      [/2 x 3, for height and width/, (v) => v.setUint32(12, 18, true)],
      [/2 x 3, for height and width/, (v) => v.setUint32(16, 0, true)],
      [/0 for the reserved bytes/, (v) => v.setUint8(22, 1)],
      [/UTF-8 for the name/, (v) => v.setUint8(56, 0xff)],
      [/no scale larger than the last/, (v) => v.setUint16(62, 9, true)],
      [/extents from 1 to 1024/, (v) => v.setUint16(66, 0, true)],
    ];
    for (const [message, change] of wrong) refuses(changed(change), message);
    const huge = changed((v) => {
      for (const [at, value] of [
        [66, 1024],
        [68, 1024],
      ] as const)
        v.setUint16(at, value, true);
      v.setUint16(10, 4096, true);
      for (const at of [12, 16]) v.setUint32(at, 1024, true);
    });
    refuses(huge, /at most \d+ bits/);
    refuses(Buffer.concat([small.toBytes(), Buffer.from([0])]), /1 bytes behind its last scale/);
    const damaged = Uint8Array.from(small.toBytes());
    damaged[damaged.length - 6]! ^= 1;
    refuses(damaged, /scale 2 of 2 is wrong.*first 79 bytes, which hold 1 sound/);
    assert.equal(BitTokens.parse(damaged.subarray(0, 79)).scales.length, 1);
  });

  it('give an InfinityError or bits for whatever bytes', () => {
    const base = small.toBytes();
    const mutated = fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { maxLength: 6 }).map((edits) => {
      const bytes = Uint8Array.from(base);
      for (const [at, value] of edits) bytes[at] = value;
      new DataView(bytes.buffer).setUint32(70, crc32(bytes.subarray(0, 70)), true);
      return bytes;
    });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
        try {
          const tokens = BitTokens.parse(bytes);
          assert.ok(tokens.bitCount <= 8 * bytes.length);
        } catch (error) {
          assert.ok(error instanceof InfinityError && error.code === 'BITS_INVALID', String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('are files on disk with their own suffix', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bit-file-'));
    try {
      const path = join(folder, 'picture.bits');
      await small.toFile(path);
      assert.deepEqual(plain(await BitTokens.fromFile(path)), plain(small));
      await assert.rejects(small.toFile(join(folder, 'picture.png')), { code: 'INVALID_ARGUMENT', message: /\.bits/ });
      assert.deepEqual(await readdir(folder), ['picture.bits']);
      await assert.rejects(BitTokens.fromFile(join(folder, 'none.bits')), { code: 'IO_ERROR', message: /ENOENT/ });
      await writeFile(path, 'a text');
      await assert.rejects(BitTokens.fromFile(path), { code: 'BITS_INVALID', message: /picture\.bits is no bit file/ });
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('bits of a picture', () => {
  it('count themselves and give their first scales', () => {
    assert.equal(small.bitCount, 21);
    assert.equal(small.bitsPerPixel, 21 / (16 * 24));
    assert.deepEqual(plain(small.prefix(1)), { ...plain(small), scales: [Uint8Array.of(1, 0, 1)] });
    for (const scales of [0, 3, 1.5, Number.NaN])
      assert.throws(() => small.prefix(scales), { code: 'INVALID_ARGUMENT' });
  });

  it('are refused when their parts do not fit together', () => {
    const wrong: Partial<Record<keyof BitTokensInit, unknown>>[] = [
      { dim: 16 },
      { dim: 0 },
      { height: 24 },
      { scales: small.scales.slice(1) },
      { scales: [] },
      { scales: small.scales.map((bits) => bits.map(() => 2)) },
      { scales: [[1, 0, 1]] },
      { tokenizer: { name: 'x'.repeat(256), sha256: TOKENIZER.sha256 } },
      { tokenizer: { name: 'x', sha256: 'abc' } },
      { tokenizer: undefined },
    ];
    for (const part of wrong)
      assert.throws(() => new BitTokens({ ...small, ...part } as BitTokensInit), {
        code: 'INVALID_ARGUMENT',
        message: /bits|tokenizer/,
      });
    assert.throws(() => new BitTokens({ ...small, schedule: small.schedule.slice(1) }), { code: 'INVALID_ARGUMENT' });
  });
});
