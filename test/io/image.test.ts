import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import sharp from 'sharp';
import { Image, type ImageFormat, loadImage } from '../../lib/io/image.js';
import { insertPngMetadata, readPngMetadata } from '../../lib/io/png_metadata.js';

const gradient = (width: number, height: number) =>
  Uint8Array.from(
    { length: width * height * 3 },
    (_, i) => ((Math.floor(i / 3) % width) * 5 + Math.floor(i / 3 / width) * 3) % 256,
  );

const sample = (extra: Partial<Image> = {}) => new Image({ width: 20, height: 12, data: gradient(20, 12), ...extra });

describe('images', () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'image-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('PNG keeps pixels, seed and metadata', async () => {
    const path = join(dir, 'out.png');
    const metadata = { prompt: 'a red circle\n"über" 猫 😀', guidance: [3, 2.5], nested: { a: null } };
    await sample({ seed: 42, metadata }).toFile(path);
    assert.deepEqual(await readdir(dir), ['out.png']);
    const read = await loadImage(path);
    assert.deepEqual(read.data, Buffer.from(gradient(20, 12)));
    assert.equal(read.seed, 42);
    assert.deepEqual(read.metadata, { ...metadata, seed: 42 });
    const decoded = await sharp(await readFile(path)).metadata();
    assert.deepEqual([decoded.format, decoded.width, decoded.height, decoded.channels], ['png', 20, 12, 3]);
  });

  it('every format is written by extension and read back in size', async () => {
    for (const [name, format] of [
      ['a.jpg', 'jpeg'],
      ['b.JPEG', 'jpeg'],
      ['c.webp', 'webp'],
      ['d.avif', 'heif'],
      ['e.png', 'png'],
    ]) {
      const path = join(dir, name);
      await sample().toFile(path);
      assert.equal((await sharp(path).metadata()).format, format);
      const { width, height, data, metadata } = await loadImage(path);
      assert.deepEqual([width, height, data.length, metadata], [20, 12, 720, {}]);
    }
    await sample().toFile(join(dir, 'no-extension'), { format: 'webp', quality: 50 });
    await assert.rejects(sample().toFile(join(dir, 'x.bmp')), {
      code: 'INVALID_ARGUMENT',
      message: /png, jpeg, webp, avif/,
    });
    await assert.rejects(sample().toBuffer('gif' as ImageFormat), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(sample().toBuffer('jpeg', { quality: 0 }), { code: 'INVALID_ARGUMENT' });
  });

  it('grey, transparent, deep and turned pictures become upright RGB', async () => {
    const raw = (channels: 1 | 2 | 4) => ({ raw: { width: 4, height: 2, channels } });
    const grey = await sharp(Buffer.alloc(8, 77), raw(1)).png().toBuffer();
    assert.ok((await loadImage(grey)).data.every((v) => v === 77));
    const greyAlpha = await sharp(Buffer.alloc(16, 77), raw(2)).png().toBuffer();
    assert.equal((await loadImage(greyAlpha)).data.length, 24);
    const transparent = await sharp(Buffer.from(Array(8).fill([10, 20, 30, 0]).flat()), raw(4))
      .png()
      .toBuffer();
    assert.deepEqual([...(await loadImage(transparent)).data.subarray(0, 3)], [10, 20, 30]);
    const deep = await sharp(Buffer.alloc(8, 200), raw(1)).toColourspace('rgb16').png().toBuffer();
    assert.equal((await loadImage(deep)).data.length, 24);
    const turned = await sharp(Buffer.alloc(8), raw(1)).withMetadata({ orientation: 6 }).jpeg().toBuffer();
    const upright = await loadImage(turned);
    assert.deepEqual([upright.width, upright.height], [2, 4]);
  });

  it('what is no picture is refused, by name', async () => {
    const path = join(dir, 'text.png');
    await writeFile(path, 'not a picture');
    await assert.rejects(loadImage(path), { code: 'IMAGE_INVALID', message: /text\.png/, cure: /PNG/ });
    await assert.rejects(loadImage(new Uint8Array(0)), { code: 'IMAGE_INVALID' });
    const png = await sample().toBuffer();
    await assert.rejects(loadImage(png.subarray(0, png.length / 2)), { code: 'IMAGE_INVALID' });
    await assert.rejects(loadImage(join(dir, 'absent.png')), { code: 'IO_ERROR', message: /absent/ });
    await assert.rejects(loadImage(dir), { code: 'IO_ERROR' });
    await assert.rejects(loadImage(7 as unknown as string), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => new Image({ width: 2, height: 2, data: new Uint8Array(3) }), { code: 'IMAGE_INVALID' });
  });

  it('an unwritable place or a full disk is named with its cure', async function () {
    await assert.rejects(sample().toFile(join(dir, 'no', 'out.png')), {
      code: 'IO_ERROR',
      message: /no.out\.png/,
      cure: /folder/,
    });
    const full = await stat('/dev/full').catch(() => undefined);
    if (!full?.isCharacterDevice()) this.skip();
    await assert.rejects(sample().toFile('/dev/full', { format: 'png' }), { code: 'DISK_FULL', cure: /space/ });
  });

  it('"-" writes to standard output', () => {
    const url = new URL('../../lib/io/image.ts', import.meta.url).href;
    const script = `import { Image } from ${JSON.stringify(url)};
      await new Image({ width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6), seed: 5 }).toFile('-');`;
    const cwd = fileURLToPath(new URL('../..', import.meta.url));
    const png = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], { cwd });
    assert.deepEqual(readPngMetadata(png), { seed: 5 });
  });
});

describe('PNG metadata', () => {
  let png: Buffer;
  before(async () => {
    png = await sample().toBuffer();
  });

  /** An iTXt chunk with arbitrary content, before the end chunk. */
  function withChunk(content: Buffer, checksum?: number): Buffer {
    const body = Buffer.concat([Buffer.from('iTXt'), content]);
    const chunk = Buffer.alloc(body.length + 8);
    chunk.writeUInt32BE(content.length);
    chunk.set(body, 4);
    chunk.writeUInt32BE(checksum ?? crc32(body), chunk.length - 4);
    return Buffer.concat([png.subarray(0, -12), chunk, png.subarray(-12)]);
  }

  it('any JSON object survives, and is replaced, not doubled', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
        const metadata = JSON.parse(JSON.stringify(value));
        const once = insertPngMetadata(png, { old: 1 });
        const twice = insertPngMetadata(once, metadata);
        assert.deepEqual(readPngMetadata(twice), metadata);
        assert.equal(twice.length - png.length, 12 + 18 + Buffer.byteLength(JSON.stringify(metadata)));
      }),
    );
    assert.equal(readPngMetadata(png), undefined);
    assert.equal(readPngMetadata(Buffer.from('no png at all')), undefined);
  });

  it('a compressed chunk is read, an exploding one refused', () => {
    const packed = (text: Buffer) =>
      Buffer.concat([Buffer.from('node-infinity\0\x01\0\0\0', 'latin1'), deflateSync(text)]);
    assert.deepEqual(readPngMetadata(withChunk(packed(Buffer.from('{"a":1}')))), { a: 1 });
    assert.throws(() => readPngMetadata(withChunk(packed(Buffer.alloc(8 << 20, ' ')))), { code: 'IMAGE_INVALID' });
  });

  it('damage is refused', () => {
    const plain = Buffer.from('node-infinity\0\0\0\0\0{"a":1}', 'latin1');
    assert.deepEqual(readPngMetadata(withChunk(plain)), { a: 1 });
    assert.throws(() => readPngMetadata(withChunk(plain, 1)), { code: 'IMAGE_INVALID', message: /checksum/ });
    for (const content of [
      'node-infinity\0\0\0',
      'node-infinity\0\0\0\0\0{',
      'node-infinity\0\0\0\0\0[1]',
      'node-infinity\0\0\0\0\0',
    ]) {
      assert.throws(
        () => readPngMetadata(withChunk(Buffer.from(content, 'latin1'))),
        { code: 'IMAGE_INVALID' },
        content,
      );
    }
    assert.throws(() => insertPngMetadata(Buffer.from('x'), {}), { code: 'IMAGE_INVALID' });
  });

  it('arbitrary bytes never crash the reader', () => {
    const good = insertPngMetadata(png, { prompt: 'x' });
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, byte, length) => {
        const bytes = Buffer.from(good.subarray(0, length));
        if (at < length) bytes[at] = byte;
        try {
          readPngMetadata(bytes);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'IMAGE_INVALID');
        }
      }),
      { numRuns: 300 },
    );
  });
});
