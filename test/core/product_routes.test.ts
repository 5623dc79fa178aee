import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device, type DeviceOptions } from '../../lib/device.js';
import { linear } from '../../lib/ops/linear.js';
import { Program } from '../../lib/program.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { toBf16 } from '../support/bf16.js';
import { CUDA, random, randomArray } from '../support/numeric.js';
import { EMULATED, fakeCublasLt, openOnCard } from '../support/product_routes.js';

const bf16 = (device: Device, seed: number, shape: Shape): Tensor =>
  Tensor.from(toBf16(randomArray(seed, sizeOf(shape))), shape, 'bf16', device);

/** What `device` decided after one product [8, 32] · [16, 32]ᵀ with a bias, in f32 and in bf16. */
async function decided(device: Device): Promise<string[]> {
  scope(() => {
    linear(random(device, 1, [8, 32]), random(device, 2, [16, 32]), random(device, 3, [16]));
    linear(bf16(device, 1, [8, 32]), bf16(device, 2, [16, 32]), random(device, 3, [16]));
  });
  await device.sync();
  return device.decisions();
}

async function opened(
  options: DeviceOptions,
  use: (device: Device) => Promise<void>,
  variables: Readonly<Record<string, string | undefined>> = {},
): Promise<void> {
  const device = openOnCard(options, variables);
  await use(device).finally(() => device.close());
}

describe('the ways of matrix products', () => {
  it('are of no concern to the processor', async () => {
    const device = Device.create('cpu', { deterministic: false, threads: 1 });
    scope(() => linear(random(device, 1, [8, 32]), random(device, 2, [16, 32])));
    await device.sync();
    assert.deepEqual(device.decisions(), []);
    device.close();
  });

  it('refuse what is not true or false', () => {
    assert.throws(() => Device.create('cpu', { deterministic: 1 as unknown as boolean }), {
      code: 'INVALID_ARGUMENT',
      message: /true or false for deterministic but received 1/,
    });
  });

  describe(`on ${CUDA}`, () => {
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // names no backend
    });

    it('are decided by rule, once for each description', () =>
      opened({}, async (device) => {
        const lines = [
          'linear 8x16x32, f32 x f32 to f32, bias f32: fragments (by rule)',
          'linear 8x16x32, bf16 x bf16 to bf16, bias f32: fragments (by rule)',
        ];
        assert.deepEqual(await decided(device), lines);
        assert.deepEqual(await decided(device), lines);
      }));

    it('are measured where the device need not be deterministic', () =>
      opened({ deterministic: false }, async (device) => {
        const lines = await decided(device);
        assert.match(lines[0]!, /^linear 8x16x32, f32 .*: fragments \(the only way\)$/);
        assert.match(lines[1]!, /^linear 8x16x32, bf16 .*: \w+ \(fragments \d+\.\d{4} ms/);
        assert.equal(lines.length, 2);
      }));

    it('are refused where they are not to be had', () => {
      const products = 'sideways' as 'fragments';
      assert.throws(() => openOnCard({ products }), { code: 'INVALID_ARGUMENT', message: /'sideways'/ });
      if (EMULATED) assert.throws(() => openOnCard({ products: 'warpgroups' }), { code: 'DEVICE_UNAVAILABLE' });
    });

    it('never open cuBLASLt on a deterministic device', async function () {
      if (!EMULATED) this.skip(); // needs a library of its own
      const directory = mkdtempSync(join(tmpdir(), 'cublaslt-'));
      const library = join(directory, 'library_of_this_test.so');
      copyFileSync(fakeCublasLt(), library);
      const mapped = (): boolean => readFileSync('/proc/self/maps', 'utf8').includes(library);
      const variables = { NODE_INFINITY_CUBLASLT: library };
      try {
        for (const options of [{}, { deterministic: true }, { deterministic: false, products: 'fragments' }] as const) {
          await opened(options, async (device) => void (await decided(device)), variables);
          assert.equal(mapped(), false);
        }
        await opened({ deterministic: false }, async () => assert.equal(mapped(), true), variables);
      } finally {
        rmSync(directory, { recursive: true });
      }
    });

    it('tell which cuBLASLt cannot be opened, where one was named or is the only way', async function () {
      if (!EMULATED) this.skip(); // a card finds the one of its machine
      const variables = { NODE_INFINITY_CUBLASLT: '/nowhere/libcublasLt.so' };
      for (const options of [{ deterministic: false }, { products: 'cublaslt' }] as const)
        assert.throws(() => openOnCard(options, variables), {
          code: 'DEVICE_UNAVAILABLE',
          message: /^cuBLASLt could not be opened: \/nowhere\/libcublasLt\.so/,
        });
      await opened({}, async (device) => assert.equal((await decided(device)).length, 2), variables);
    });

    it('are the fastest that was measured, measured once and kept', async function () {
      if (!EMULATED) this.skip(); // times on a card are its own
      const check = (fastest: string, times: readonly number[], launches: number) => async (device: Device) => {
        const [, line] = await decided(device);
        const told = `fragments ${times[0]}.0000 ms, cublaslt ${times[1]}.0000 ms`;
        assert.equal(line, `linear 8x16x32, bf16 x bf16 to bf16, bias f32: ${fastest} (${told})`);
        const before = device.stats().launches;
        assert.equal((await decided(device))[1], line);
        assert.equal(device.stats().launches - before, launches);
      };
      // One kernel for f32; for bf16 another, or the rounding of the bias and a call of the library.
      await opened({ deterministic: false }, check('fragments', [1, 2], 2), { SIMT_FASTEST: 'fragments' });
      await opened({ deterministic: false }, check('cublaslt', [2, 1], 3), { SIMT_FASTEST: 'cublaslt' });
    });

    it('are measured by the first run of a program and recorded by the second; cuBLASLt runs again with the rest', async function () {
      if (!EMULATED) this.skip(); // whether cuBLASLt is the fastest of a card is its own
      const check = async (device: Device): Promise<void> => {
        const [M, N, K] = [8, 16, 32];
        using x = bf16(device, 1, [M, K]);
        using w = bf16(device, 2, [N, K]);
        using b = random(device, 3, [N]);
        using residual = bf16(device, 4, [M, N]);
        using gate = bf16(device, 5, [1, N]);
        using square = bf16(device, 6, [N, N]);
        // A rounded bias and one call; a call and our epilogue.
        const products = () => scope(() => linear(linear(x, w, b), square, null, { residual, gate }));
        const program = new Program(device);
        using again = program.record(products);
        await device.sync();
        assert.deepEqual(device.decisions(), []);
        for (let run = 0; run < 4; run++) {
          x.write(toBf16(randomArray(10 + run, M * K)));
          program.run();
          using want = products();
          assert.deepEqual(await again.read(), await want.read());
          const lines = device.decisions();
          assert.ok(lines.length === 2 && lines.every((line) => line.includes(': cublaslt (')));
        }
        program.dispose();
      };
      await opened({ deterministic: false }, check, { SIMT_FASTEST: 'cublaslt' });
    });

    it('are what remains where cuBLASLt has no algorithm', async function () {
      if (!EMULATED) this.skip(); // what it has is its own
      const variables = { FAKE_CUBLASLT_REFUSE: '1' };
      const check = (line: RegExp) => async (device: Device) => assert.match((await decided(device))[1]!, line);
      await opened({ deterministic: false }, check(/: fragments \(the only way\)$/), variables);
      await opened({ products: 'cublaslt' }, check(/: fragments \(not for cublaslt\)$/), variables);
    });
  });
});
