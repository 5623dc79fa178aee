import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { add, exp } from '../../lib/ops/elementwise.js';
import { embedding } from '../../lib/ops/embedding.js';
import { Op } from '../../lib/ops/generated.js';
import { run } from '../../lib/ops/run.js';
import { fill, reshape } from '../../lib/ops/shape.js';
import { scope, Tensor, unscoped } from '../../lib/tensor.js';

describe('tensors', () => {
  let device: Device;
  beforeEach(() => {
    device = Device.create('cpu', { threads: 2, memoryLimit: 2 ** 24 });
  });
  afterEach(() => device.close());

  const live = (): number => device.stats().liveTensors;
  const ones = (...shape: number[]): Tensor => fill(shape, 1, 'f32', device);
  const code = (expected: string) => (error: unknown) => {
    assert.ok(error instanceof InfinityError, String(error));
    assert.equal(error.code, expected);
    return true;
  };

  describe('scope', () => {
    it('keeps its result, also inside arrays, maps and plain objects, and frees the rest', async () => {
      const kept = scope(() => {
        const rest = ones(3);
        return { a: add(rest, rest), list: [exp(rest)], map: new Map([['b', ones(2)]]), n: 7 };
      });
      assert.equal(live(), 3);
      assert.deepEqual([...(await kept.a.read())], [2, 2, 2]);
      for (const t of [kept.a, kept.list[0]!, kept.map.get('b')!]) t.dispose();
      assert.equal(live(), 0);
    });
    it('hands its result to the scope around it', () => {
      const outer = scope(() => {
        const inner = scope(() => add(ones(2), ones(2)));
        assert.equal(live(), 1);
        return exp(inner);
      });
      assert.equal(live(), 1);
      outer.dispose();
    });
    it('leaves alone what was made before it', () => {
      const before = ones(2);
      scope(() => exp(before).size);
      const same = scope(() => before);
      assert.equal(same, before);
      assert.equal(before.disposed, false);
      before.dispose();
      assert.equal(live(), 0);
    });
    it('frees everything when the function throws, and is itself again afterwards', () => {
      assert.throws(() => {
        scope(() => {
          ones(4);
          scope(() => ones(4));
          throw new Error('stop');
        });
      }, /stop/);
      assert.equal(live(), 0);
      const outside = ones(1);
      assert.equal(outside.disposed, false);
    });
    it('refuses an asynchronous function and frees what it had made', () => {
      assert.throws(() => scope(async () => ones(2)), code('INVALID_ARGUMENT'));
      assert.equal(live(), 0);
    });
    it('unscoped work belongs to the caller', () => {
      let cache: Tensor | undefined;
      scope(() => {
        ones(2);
        cache = unscoped(() => ones(3));
      });
      assert.equal(live(), 1);
      cache!.dispose();
      assert.equal(live(), 0);
    });
  });

  describe('memory', () => {
    it('a view shares memory, and the memory lives as long as its last user', async () => {
      const x = Tensor.from([1, 2, 3, 4, 5, 6], [2, 3], 'f32', device);
      const row = x.view([3], 3);
      const flat = reshape(x, [6]);
      assert.equal(live(), 1);
      row.write([40, 50, 60]);
      assert.deepEqual([...(await flat.read())], [1, 2, 3, 40, 50, 60]);
      x.dispose();
      flat.dispose();
      assert.equal(live(), 1);
      assert.deepEqual([...(await row.read())], [40, 50, 60]);
      row.dispose();
      assert.equal(live(), 0);
    });
    it('counts owners; one disposal too many is harmless', () => {
      const x = ones(2).retain();
      x.dispose();
      assert.equal(x.disposed, false);
      x.dispose();
      x.dispose();
      assert.equal(x.disposed, true);
      assert.equal(live(), 0);
    });
    it('a disposed tensor is refused wherever it is used', async () => {
      const x = ones(2);
      x.dispose();
      assert.throws(() => exp(x), code('DISPOSED'));
      assert.throws(() => reshape(x, [1, 2]), code('DISPOSED'));
      assert.throws(() => x.retain(), code('DISPOSED'));
      assert.throws(() => x.write([1, 2]), code('DISPOSED'));
      await assert.rejects(x.read(), code('DISPOSED'));
    });
    it('out of memory is thrown at the op that asked, with needed and free bytes, and nothing is lost', async () => {
      const x = ones(2 ** 20);
      const y = ones(2 ** 20);
      const before = live();
      const tooMuch = (error: unknown): boolean => {
        code('OUT_OF_MEMORY')(error);
        const { needed, free } = (error as InfinityError).fields as { needed: number; free: number };
        assert.ok(needed >= 2 ** 23 && free > 0 && free < needed, `needed ${needed}, free ${free}`);
        assert.match((error as Error).message, /NODE_INFINITY_MEMORY_LIMIT/);
        return true;
      };
      assert.throws(() => Tensor.empty([2 ** 22], 'f32', device), tooMuch);
      assert.throws(() => run(Op.add, [x, y], [{ dtype: 'f32', shape: [2 ** 22] }]), tooMuch);
      assert.equal(live(), before);
      x.dispose();
      const z = add(y, y);
      assert.equal((await z.read())[2 ** 20 - 1], 2);
      y.dispose();
      z.dispose();
    });
    it('freed memory is used again', () => {
      for (let i = 0; i < 100; i++) scope(() => exp(ones(2 ** 20)).size);
      assert.ok(device.stats().peakBytes <= 3 * 2 ** 22);
    });
  });

  describe('shapes and data', () => {
    it('an empty batch is refused by name', () => {
      assert.throws(() => Tensor.empty([0, 3], 'f32', device), code('INVALID_SHAPE'));
      assert.throws(() => Tensor.from([], [0], 'f32', device), code('INVALID_SHAPE'));
      const x = ones(1);
      assert.throws(
        () => run(Op.exp, [x], [{ dtype: 'f32', shape: [0, 4] }]),
        (error) => code('INVALID_SHAPE')(error) && /'exp'.*\[0, 4\]/.test((error as Error).message),
      );
      x.dispose();
    });
    it('refuses extents that are no counts, and data that do not fill the shape', () => {
      for (const shape of [[-1], [1.5], [Number.NaN], [1, 1, 1, 1, 1, 1, 1]])
        assert.throws(() => Tensor.empty(shape, 'f32', device), code('INVALID_SHAPE'));
      assert.throws(() => Tensor.from([1, 2, 3], [2], 'f32', device), code('INVALID_SHAPE'));
      const x = ones(2);
      assert.throws(() => x.write([1]), code('INVALID_ARGUMENT'));
      x.dispose();
    });
    it('every type comes back as it went in', async () => {
      const arrays = [
        Float32Array.of(1.5, -2),
        Float64Array.of(Math.PI, 1e300),
        Int32Array.of(-7, 2 ** 30),
        Uint8Array.of(0, 255),
        Uint16Array.of(0x3f80, 0xc000),
      ];
      for (const data of arrays) {
        const x = Tensor.from(data, [2], undefined, device);
        assert.deepEqual(await x.read(), data);
        x.dispose();
      }
      const bf16 = Tensor.from(Uint16Array.of(0x3f80, 0xc000), [2], 'bf16', device);
      assert.deepEqual([...(await bf16.readFloats())], [1, -2]);
      bf16.dispose();
    });
    it('an upload copies at once: the array may change afterwards', async () => {
      const data = Float32Array.of(1, 2);
      const x = Tensor.from(data, [2], 'f32', device);
      data.fill(9);
      assert.deepEqual([...(await x.read())], [1, 2]);
      x.dispose();
    });
    it('tensors of two devices do not meet', () => {
      const other = Device.create('cpu', { threads: 1 });
      const [x, y] = [ones(2), fill([2], 1, 'f32', other)];
      assert.throws(() => add(x, y), code('INVALID_ARGUMENT'));
      x.dispose();
      y.dispose();
      other.close();
    });
  });

  describe('cancelling and failing', () => {
    it('work of a cancelled token is skipped and its reads reject; other work goes on', async () => {
      const x = ones(2);
      const token = device.createToken();
      const pending = device.withToken(token, () => x.read());
      await pending;
      token.cancel();
      device.withToken(token, () => {
        run(Op.fill, [], [x], [5]);
      });
      await assert.rejects(
        device.withToken(token, () => x.read()),
        code('ABORTED'),
      );
      assert.deepEqual([...(await x.read())], [1, 1]);
      token.release();
      x.dispose();
    });
    it('cancelling a released token is harmless', () => {
      const token = device.createToken();
      token.release();
      token.release();
      token.cancel();
    });
    it('a failing kernel fails the rest of its token by name and nothing else', async () => {
      const table = ones(3, 4);
      const ids = Tensor.from([0, 3], [2], 'i32', device);
      const token = device.createToken();
      const reads = device.withToken(token, () => {
        const y = scope(() => exp(embedding(table, ids)));
        const read = y.read();
        const later = table.read();
        y.dispose();
        return [read, later];
      });
      for (const read of reads)
        await assert.rejects(read, (error) => {
          code('INVALID_ARGUMENT')(error);
          assert.match((error as Error).message, /embedding\(f32\[3,4\], i32\[2\]\) -> f32\[2,4\]/);
          return true;
        });
      assert.equal((await table.read())[0], 1);
      token.release();
      table.dispose();
      ids.dispose();
      assert.equal(live(), 0);
    });
    it('without a token a failure is told once, then the device works on', async () => {
      const table = ones(3, 4);
      const ids = Tensor.from([-1], [1], 'i32', device);
      const y = embedding(table, ids);
      await assert.rejects(device.sync(), code('INVALID_ARGUMENT'));
      await device.sync();
      assert.equal((await table.read())[11], 1);
      for (const t of [table, ids, y]) t.dispose();
    });
    it('a closed device refuses new work and lets go of its tensors', () => {
      const x = ones(2);
      device.close();
      assert.throws(() => exp(x), code('DISPOSED'));
      assert.throws(() => device.stats(), code('DISPOSED'));
      x.dispose();
    });
  });
});
