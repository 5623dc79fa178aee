/** Recorded commands against the same commands submitted, on every device; memory, lifetimes and failures of programs. */
import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { bitSample } from '../../lib/ops/bits.js';
import { add, exp, mul, scale } from '../../lib/ops/elementwise.js';
import { linear } from '../../lib/ops/linear.js';
import { cast } from '../../lib/ops/shape.js';
import { Program } from '../../lib/program.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { isaDevices, random } from '../support/numeric.js';
import { onRoute, ROUTES } from '../support/product_routes.js';

const numbers = (...values: number[]): Float32Array => Float32Array.from(values);

for (const [name, device] of isaDevices())
  describe(`programs on ${name}`, () => {
    let live = 0;
    let bytes = 0;
    const from = (values: Float32Array): Tensor => Tensor.from(values, [values.length], 'f32', device);
    const formula = (x: Tensor, y: Tensor): Tensor => scope(() => add(mul(exp(x), y), scale(mul(x, y), 0.5)));

    beforeEach(async () => {
      await device.sync();
      ({ liveTensors: live, liveBytes: bytes } = device.stats());
    });
    afterEach(async () => {
      await device.sync();
      const stats = device.stats();
      assert.deepEqual([stats.liveTensors, stats.liveBytes], [live, bytes], 'memory leaked');
      assert.equal(stats.damagedGuards, 0);
    });

    it('run again on what their inputs hold, with the bits of commands that are submitted', async () => {
      using x = random(device, 1, [7, 33]);
      using y = random(device, 2, [7, 33]);
      const program = new Program(device);
      using z = program.record(() => formula(x, y));
      for (let run = 0; run < 3; run++) {
        x.write(Float32Array.from({ length: x.size }, (_, i) => Math.sin(i + run)));
        program.run();
        using want = formula(x, y);
        assert.deepEqual(await z.read(), await want.read());
      }
      program.dispose();
    });

    it('do not run while they are recorded, nor count as commands one by one', async () => {
      using x = from(numbers(1, 2));
      const program = new Program(device);
      const before = device.stats().commands;
      using y = program.record(() => scope(() => scale(scale(x, 3), 2)));
      assert.equal(device.stats().commands, before);
      program.run();
      assert.equal(device.stats().commands, before + 1);
      assert.deepEqual(await y.read(), numbers(6, 12));
      program.dispose();
    });

    it('write their results in place of the inputs of the next run', async () => {
      using x = from(numbers(1));
      const program = new Program(device);
      using doubled = program.record(() => add(x, x));
      const back = new Program(device, program);
      using again = back.record(() => add(doubled, doubled));
      for (let run = 0; run < 4; run++) {
        program.run();
        back.run();
        x.write((await again.read()) as Float32Array);
      }
      assert.deepEqual(await x.read(), numbers(4 ** 4));
      program.dispose();
      back.dispose();
    });

    it('share memory in the order of their recording, and with nobody else', async () => {
      using x = from(new Float32Array(5000).fill(1));
      const programs: Program[] = [];
      let y = x.retain();
      for (let i = 0; i < 6; i++) {
        const program = new Program(device, programs[0]);
        programs.push(program);
        const next = program.record(() => scope(() => add(add(y, x), x)));
        y.dispose();
        y = next;
      }
      assert.equal(programs[0]!.bytes, programs[5]!.bytes);
      // What others take and give meanwhile is not what programs write to.
      const others = Array.from({ length: 8 }, (_, i) => from(new Float32Array(5000).fill(i)));
      for (let run = 0; run < 3; run++) for (const program of programs) program.run();
      assert.equal(((await y.read()) as Float32Array)[4999], 13);
      for (const [i, t] of others.entries()) assert.equal(((await t.read()) as Float32Array)[17], i);
      for (const t of [y, ...others]) t.dispose();
      for (const program of programs) program.dispose();
    });

    it('keep alive what they read, until they are disposed', async () => {
      const [x, w] = [from(numbers(1, 2)), from(numbers(10, 20))];
      const program = new Program(device);
      using y = program.record(() => mul(x, w));
      for (const t of [x, w]) t.dispose();
      using other = from(numbers(7, 7));
      program.run();
      assert.deepEqual(await y.read(), numbers(10, 40));
      assert.deepEqual(await other.read(), numbers(7, 7));
      program.dispose();
      // Their results live as long as anybody holds them.
      assert.deepEqual(await y.read(), numbers(10, 40));
    });

    it('leave out what belongs to nobody: it runs at once', async () => {
      using x = from(numbers(3));
      const program = new Program(device);
      let cached: Tensor | undefined;
      using y = program.record(() => {
        cached = device.withToken(null, () => from(numbers(5)));
        return mul(x, cached);
      });
      assert.deepEqual(await cached!.read(), numbers(5));
      program.run();
      assert.deepEqual(await y.read(), numbers(15));
      cached!.dispose();
      program.dispose();
    });

    it('are skipped with their token, and run for the next one', async () => {
      using x = from(numbers(2));
      const program = new Program(device);
      using y = program.record(() => scale(x, 4));
      const token = device.createToken();
      token.cancel();
      device.withToken(token, () => program.run());
      await assert.rejects(
        device.withToken(token, () => y.read()),
        { code: 'ABORTED' },
      );
      token.release();
      program.run();
      assert.deepEqual(await y.read(), numbers(8));
      program.dispose();
    });

    it('tell a failure to the request that they ran for, and to no later one', async () => {
      using logits = Tensor.from(numbers(0.5, -0.5), [1, 1, 2], 'f32', device);
      using choice = from(numbers(1, 1, -1));
      const program = new Program(device);
      const { bits, prob0 } = program.record(() => bitSample(logits, null, { topK: 1, choice }));
      const drawn = async (first: number): Promise<unknown> => {
        const token = device.createToken();
        try {
          return await device.withToken(token, () => {
            logits.write(numbers(first, -0.5));
            program.run();
            return bits.read();
          });
        } finally {
          token.release();
        }
      };
      for (let run = 0; run < 3; run++) assert.deepEqual(await drawn(0.5), Uint8Array.of(0));
      await assert.rejects(drawn(Number.NaN), { code: 'NUMERICAL' });
      assert.deepEqual(await drawn(-3), Uint8Array.of(1));
      for (const t of [bits, prob0]) t.dispose();
      program.dispose();
    });

    it('only compute: uploads, reads, waits and other programs are refused, and so are additions after a run', async () => {
      using x = from(numbers(1));
      const [program, other] = [new Program(device), new Program(device)];
      const refused = { code: 'INVALID_ARGUMENT', message: /program/ };
      assert.throws(() => program.record(() => x.write(numbers(2))), refused);
      assert.throws(() => program.record(() => other.record(() => scale(x, 2))), refused);
      assert.throws(() => program.record(() => other.run()), refused);
      await assert.rejects(
        program.record(() => x.read()),
        refused,
      );
      await assert.rejects(
        program.record(() => device.sync()),
        refused,
      );
      program.run();
      assert.throws(() => program.record(() => scale(x, 2)), refused);
      program.dispose();
      program.dispose();
      other.dispose();
      assert.throws(() => program.run(), { code: 'DISPOSED' });
      assert.deepEqual(await x.read(), numbers(1));
    });
  });

/** On devices without guard zones, which need commands and blocks of their own. */
describe('programs', () => {
  it('take as much memory as their longest moment', async () => {
    const device = Device.create('cpu', { threads: 1 });
    const x = Tensor.from(new Float32Array(5000), [5000], 'f32', device);
    const program = new Program(device);
    let y = x.retain();
    for (let i = 0; i < 6; i++) {
      const next = program.record(() => scope(() => add(add(y, x), x)));
      y.dispose();
      y = next;
    }
    // A result, what it is made of, and what lies between.
    assert.equal(program.bytes, 3 * 20480);
    assert.equal(device.stats().liveBytes, 4 * 20480);
    program.run();
    assert.equal(((await y.read()) as Float32Array)[0], 0);
    program.dispose();
    assert.equal(device.stats().liveBytes, 2 * 20480);
    assert.equal(device.stats().cachedBytes, 2 * 20480);
    y.dispose();
    assert.equal(device.stats().liveBytes, 20480);
    device.close();
  });

  it('go with their device', async () => {
    const device = Device.create('cpu', { threads: 1 });
    const x = Tensor.from(numbers(1), [1], 'f32', device);
    const program = new Program(device);
    const y = program.record(() => scale(x, 2));
    for (let run = 0; run < 100; run++) program.run();
    device.close();
    program.dispose();
    y.dispose();
  });

  for (const route of ROUTES)
    it(`hold products that go by ${route}`, async function () {
      const card = onRoute(route);
      if (typeof card === 'string') return this.skip(); // there is no such way here
      const [x, w] = scope(
        () => [cast(random(card, 1, [24, 32]), 'bf16'), cast(random(card, 2, [16, 32]), 'bf16')] as const,
      );
      const program = new Program(card);
      const y = program.record(() => linear(x, w));
      for (let run = 0; run < 4; run++) {
        program.run();
        const want = linear(x, w);
        assert.deepEqual(await y.read(), await want.read());
        x.write(new Uint16Array(x.size).map((_, i) => 0x3f80 + ((i + run) % 9)));
      }
      for (const line of card.decisions()) assert.match(line, new RegExp(`: ${route} `));
      program.dispose();
      card.close();
    });

  it('count the kernels of every run of a card', async function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // there is no card
    const card = Device.create('cuda');
    using x = Tensor.from(numbers(1, 2), [2], 'f32', card);
    const program = new Program(card);
    using y = program.record(() => scope(() => scale(scale(scale(x, 2), 2), 2)));
    const launches = async (): Promise<number> => {
      await y.read();
      return card.stats().launches;
    };
    const before = await launches();
    program.run();
    assert.equal((await launches()) - before, 3);
    for (let run = 1; run < 4; run++) {
      program.run();
      // A recorded run has one more, which moves what they found wrong.
      assert.equal((await launches()) - before, 3 + 4 * run);
    }
    program.dispose();
    card.close();
  });
});
