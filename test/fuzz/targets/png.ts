import assert from 'node:assert/strict';
import { crc32, deflateSync } from 'node:zlib';
import { insertPngMetadata, readPngMetadata } from '../../../lib/io/png_metadata.js';
import { mutateJson } from '../mutate.js';
import type { FuzzTarget } from '../target.js';

const SIGNATURE = Buffer.from('89504e470d0a1a0a', 'hex');
const PROMPT = {
  prompt: 'a red circle above a blue square',
  seed: 42,
  size: [16, 16],
  guidance: [3, 2.5],
  model: { name: 'x' },
};

function chunk(type: string, data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(data.byteLength + 12);
  bytes.writeUInt32BE(data.byteLength);
  bytes.write(type, 4, 'latin1');
  bytes.set(data, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), bytes.length - 4);
  return bytes;
}

/** One grey pixel. */
function picture(...texts: Buffer[]): Buffer {
  const header = Buffer.from('00000001000000010800000000', 'hex');
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    ...texts,
    chunk('IDAT', deflateSync(Buffer.from([0, 7]))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function text(json: Uint8Array, compressed: boolean): Buffer {
  const head = Buffer.from(`node-infinity\0${compressed ? '\x01' : '\0'}\0en\0translated\0`, 'latin1');
  return chunk('iTXt', Buffer.concat([head, compressed ? deflateSync(json) : json]));
}

export const png: FuzzTarget = {
  name: 'png',
  seeds() {
    const json = Buffer.from(JSON.stringify(PROMPT));
    const other = chunk('iTXt', Buffer.from('Comment\0\0\0\0\0hello', 'latin1'));
    return [
      insertPngMetadata(picture(), PROMPT),
      picture(text(json, true)),
      picture(other, text(json, false)),
      picture(),
      // Little that unpacks into much.
      picture(text(Buffer.alloc(1 << 22, '[],'), true)),
    ];
  },
  read(file) {
    const metadata = readPngMetadata(file);
    if (!metadata) return;
    const again = readPngMetadata(insertPngMetadata(file, metadata));
    // As text: JSON knows no negative zero.
    return () => assert.equal(JSON.stringify(again), JSON.stringify(metadata));
  },
  mutate(random, _) {
    return picture(text(mutateJson(random, Buffer.from(JSON.stringify(PROMPT))), random.chance(0.5)));
  },
  /** Checksums of the chunks that can be told apart. */
  repair(file) {
    const bytes = Buffer.from(file);
    for (let at = SIGNATURE.length; at + 12 <= bytes.length; ) {
      const end = at + 12 + bytes.readUInt32BE(at);
      if (end > bytes.length) break;
      bytes.writeUInt32BE(crc32(bytes.subarray(at + 4, end - 4)), end - 4);
      at = end;
    }
    return bytes;
  },
};
