import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32c } from '../../lib/io/crc32c.js';
import { TensorBoardWriter } from '../../lib/training/tensorboard.js';
import { inner, type Message, only, parseEvents, parseMessage } from '../support/event_file.js';

describe('event files of TensorBoard', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'infinity-events-'));
  });
  after(() => rm(directory, { recursive: true, force: true }));

  it('have the checksums of RFC 3720, B.4', () => {
    const bytes = (fill: (i: number) => number, length = 32): Uint8Array =>
      Uint8Array.from({ length }, (_, i) => fill(i));
    assert.equal(crc32c(bytes(() => 0)), 0x8a9136aa);
    assert.equal(crc32c(bytes(() => 0xff)), 0x62a8ab43);
    assert.equal(crc32c(bytes((i) => i)), 0x46dd794e);
    assert.equal(crc32c(bytes((i) => 31 - i)), 0x113fdb5c);
    assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
    assert.equal(crc32c(Buffer.alloc(0)), 0);
  });

  it('tell version, start, numbers and pictures, each in a whole record', async () => {
    const writer = await TensorBoardWriter.create(directory, 300);
    const before = Date.now() / 1000;
    // A step beyond 32 bits, a name beyond ASCII, numbers that a float rounds.
    await writer.scalars(2 ** 33 + 5, { loss: 0.1, 'genauigkeit/größe': -3, huge: 1e30 });
    const png = Buffer.from(Array.from({ length: 1000 }, (_, i) => i & 255));
    await writer.picture(301, 'samples', { width: 640, height: 64, png });
    await writer.close();
    const names = await readdir(directory);
    assert.equal(names.length, 1);
    assert.match(names[0]!, /^events\.out\.tfevents\.\d{10}\./);
    const [version, start, numbers, picture, ...more] = parseEvents(await readFile(join(directory, names[0]!)));
    assert.equal(more.length, 0);
    assert.equal(String(only(version!, 3)), 'brain.Event:2');
    assert.deepEqual([only(start!, 2), only(inner(start!, 7), 1)], [301, 1]);
    assert.equal(only(numbers!, 2), 2 ** 33 + 5);
    assert.ok(Math.abs((only(numbers!, 1) as number) - before) < 60);
    const values = inner(numbers!, 5)
      .get(1)!
      .map((v) => parseMessage(v as Buffer));
    const told = values.map((v: Message) => [String(only(v, 1)), only(v, 2)]);
    assert.deepEqual(told, [
      ['loss', Math.fround(0.1)],
      ['genauigkeit/größe', -3],
      ['huge', Math.fround(1e30)],
    ]);
    const value = inner(inner(picture!, 5), 1);
    assert.equal(String(only(value, 1)), 'samples');
    const image = inner(value, 4);
    assert.deepEqual(
      [1, 2, 3].map((field) => only(image, field)),
      [64, 640, 3],
    );
    assert.deepEqual(only(image, 4), png);
  });

  it('of two starts in one second are two files', async () => {
    const twice = join(directory, 'twice');
    for (const step of [0, 1]) await (await TensorBoardWriter.create(twice, step)).close();
    assert.equal((await readdir(twice)).length, 2);
  });
});
