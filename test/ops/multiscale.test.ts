import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { bitLoss } from '../../lib/ops/bit_loss.js';
import { bitFlip, bitsToCodes, drawKeys, packBits, packedBytes, unpackBits } from '../../lib/ops/bits.js';
import { mul, sub } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { type MultiscaleOptions, multiscaleResidual } from '../../lib/ops/multiscale.js';
import { bsqPenalties, bsqQuantize, lfqPenalties, signQuantize } from '../../lib/ops/quantize.js';
import { resizeArea } from '../../lib/ops/resize.js';
import { cast, cat, reshape, slice, zerosLike } from '../../lib/ops/shape.js';
import { RandomStream } from '../../lib/philox.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { addCodes, nextInput, tokensOfMap } from '../../lib/tokenizer/bit_tokens.js';
import { assertMixed16, bits, measure, stored } from '../support/bf16.js';
import { assertClean, isaDevices, random, randomArray, referenceOf, relativeError } from '../support/numeric.js';

type Grid = readonly [number, number];
type Named = Record<string, Tensor>;

/** Bits as floats, so that `tokensOfMap` can permute them; u8 is kept by the kernel. */
const positions = (map_Bhwd: Tensor): Tensor => tokensOfMap(map_Bhwd);

/** The definition, out of single ops. `draws` is [B, L, d]. */
function composed(features: Tensor, grids: readonly Grid[], options: MultiscaleOptions): Named {
  const { noise, patchify = false, magnitude } = options;
  const [B = 0, H = 0, W = 0, d = 0] = features.shape;
  const dtype = features.dtype === 'f64' ? 'f64' : 'f32';
  const parts: Record<'labels' | 'inputs' | 'residual' | 'noisy', Tensor[]> = {
    labels: [],
    inputs: [],
    residual: [],
    noisy: [],
  };
  const constant = (x: number): Tensor => Tensor.from([x], [1, 1, 1], dtype, features.device);
  let sum = zerosLike(features);
  let at = 0;
  for (const [k, [h, w]] of grids.entries()) {
    if (k > 0) parts.inputs.push(tokensOfMap(nextInput(sum, [h, w]), patchify));
    const residual = resizeArea(sub(features, sum), [h, w]);
    const { bits } = signQuantize(residual, 1);
    let noisy = bits;
    if (noise?.draws instanceof Tensor) {
      const draws = reshape(slice(noise.draws, 1, at, at + h * w), bits.shape);
      noisy = bitFlip(bits, noise.strengths[k]!, draws);
    } else if (noise) {
      const { keys } = noise.draws as { keys: Tensor };
      noisy = bitFlip(bits, noise.strengths[k]!, { keys, scale: k });
    }
    at += h * w;
    const used = noise?.requant ? noisy : bits;
    const unit = bitsToCodes(used, dtype);
    sum = addCodes(sum, magnitude ? mul(unit, constant(magnitude * Math.sqrt(d))) : unit, [H, W]);
    // Signs stand for bits, because pixel shuffling takes floats.
    parts.labels.push(tokensOfMap(bitsToCodes(reshape(bits, [B, h, w, d]), dtype), patchify));
    parts.residual.push(positions(residual));
    parts.noisy.push(positions(bitsToCodes(noisy, dtype)));
  }
  const join = (list: Tensor[]): Tensor => (list.length > 1 ? cat(list, 1) : list[0]!);
  return {
    labels: join(parts.labels),
    residual: join(parts.residual),
    noisy: join(parts.noisy),
    sum,
    ...(parts.inputs.length > 0 ? { inputs: join(parts.inputs) } : {}),
  };
}

async function readAndDispose(tensors: Named): Promise<Record<string, ArrayLike<number>>> {
  const read = await Promise.all(Object.values(tensors).map((t) => t.read()));
  for (const t of Object.values(tensors)) t.dispose();
  return Object.fromEntries(Object.keys(tensors).map((name, i) => [name, read[i]!]));
}

const positive = (values: ArrayLike<number>): number[] => Array.from(values, (v) => Number(v > 0));

/** Draws and keys live on a device: the same options for each. */
type OptionsOn = (on: Device) => MultiscaleOptions;

/** The kernel against the composed quantiser, which a card leaves to the processor. */
async function assertAgree(
  device: Device,
  dtype: 'f32' | 'f64',
  shape: number[],
  grids: readonly Grid[],
  optionsOn: OptionsOn,
): Promise<void> {
  const oracle = referenceOf(device);
  const want = await readAndDispose(
    scope(() => composed(random(oracle, 11, shape, dtype, 0.8), grids, optionsOn(oracle))),
  );
  const { labels_BLP, labels, inputs_BLD, sum_BHWd, trace } = scope(() => {
    const options = optionsOn(device);
    const { trace, ...rest } = multiscaleResidual(random(device, 11, shape, dtype, 0.8), grids, {
      ...options,
      trace: true,
    });
    const labels = unpackBits(rest.labels_BLP, shape[3]! * (options.patchify ? 4 : 1));
    return { ...rest, labels, trace: trace ?? assert.fail('no trace') };
  });
  // Zeros lie behind a token's bits.
  const both = await readAndDispose({ packed: packBits(labels), labels_BLP });
  assert.deepEqual(both.labels_BLP, both.packed);
  const inputs: Named = inputs_BLD ? { inputs: inputs_BLD } : {};
  const got = await readAndDispose({
    labels,
    residual: trace.residual_BLd,
    noisy: trace.noisy_BLd,
    sum: sum_BHWd,
    ...inputs,
  });
  const tolerance = dtype === 'f64' ? 1e-12 : 2e-6;
  assert.deepEqual(Object.keys(got).sort(), Object.keys(want).sort());
  for (const name of ['residual', 'sum', ...Object.keys(inputs)])
    assert.ok(relativeError(got[name]!, want[name]!) <= tolerance, `${name} differs`);
  for (const name of ['labels', 'noisy']) assert.deepEqual(Array.from(got[name]!), positive(want[name]!), name);
}

const cases: { title: string; shape: number[]; grids: Grid[]; patchify?: boolean }[] = [
  { title: 'one position', shape: [1, 1, 1, 1], grids: [[1, 1]] },
  {
    title: 'overlapping windows',
    shape: [2, 5, 7, 14],
    grids: [
      [1, 1],
      [2, 3],
      [3, 5],
      [5, 7],
    ],
  },
  {
    title: 'repeated full scales',
    shape: [1, 3, 2, 33],
    grids: [
      [3, 2],
      [3, 2],
    ],
  },
  {
    title: 'a last scale below the features',
    shape: [1, 6, 6, 16],
    grids: [
      [1, 1],
      [4, 4],
    ],
  },
  {
    title: 'windows of all sizes, few channels',
    shape: [1, 16, 17, 3],
    grids: [
      [1, 1],
      [2, 2],
      [3, 5],
      [8, 8],
      [12, 14],
      [16, 17],
    ],
  },
  {
    title: 'two channels a strip',
    shape: [1, 9, 8, 8],
    grids: [
      [1, 1],
      [3, 3],
      [9, 8],
    ],
  },
  {
    title: 'patchify',
    shape: [2, 6, 8, 14],
    grids: [
      [2, 2],
      [4, 6],
      [6, 8],
    ],
    patchify: true,
  },
  {
    title: 'patchify, half a byte left over',
    shape: [1, 4, 6, 3],
    grids: [
      [2, 2],
      [4, 6],
    ],
    patchify: true,
  },
];

for (const [isa, device] of isaDevices()) {
  describe(`multiscaleResidual on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });
    afterEach(() => assertClean(device, live));

    for (const { title, shape, grids, patchify = false } of cases) {
      it(`is the composed quantiser: ${title}`, async () => {
        const [B = 0, , , d = 0] = shape;
        const L = grids.reduce((sum, [h, w]) => sum + h * w, 0);
        const strengths = grids.map((_, k) => (k % 3 === 2 ? 0 : 0.3));
        const u = randomArray(3, B * L * d).map((v) => (v + 1) / 2);
        const images = Array.from({ length: B }, (_, image) => ({ seed: 5, image }));
        for (const dtype of device.kind === 'cuda' ? (['f32'] as const) : (['f64', 'f32'] as const)) {
          const draws = (on: Device): Tensor => Tensor.from(u, [B, L, d], dtype, on);
          const variants: OptionsOn[] = [
            () => ({}),
            (on) => ({ noise: { strengths, draws: draws(on), requant: true } }),
            (on) => ({ noise: { strengths, draws: draws(on), requant: false } }),
            (on) => ({ noise: { strengths, draws: { keys: drawKeys(images, on) }, requant: true } }),
            (on) => ({ noise: { strengths, draws: draws(on), requant: true }, magnitude: 0.375 }), // LFQ
          ];
          for (const options of variants)
            await assertAgree(device, dtype, shape, grids, (on) => ({ ...options(on), patchify }));
        }
      });
    }

    it('gives an image the same bits alone and in a batch, traced or not', async () => {
      const grids: Grid[] = [
        [1, 1],
        [2, 2],
        [4, 4],
      ];
      const features = random(device, 2, [3, 4, 4, 18]);
      const images = [0, 1, 2].map((image) => ({ seed: 9, image }));
      const run = (x: Tensor, which: typeof images, trace: boolean) =>
        scope(() => {
          const noise = { strengths: [0.4, 0.4, 0.4], draws: { keys: drawKeys(which, device) }, requant: true };
          return multiscaleResidual(x, grids, { noise, trace }).labels_BLP;
        });
      const one = features.view([1, 4, 4, 18], 288);
      const [all, alone] = [run(features, images, true), run(one, [images[1]!], false)];
      const size = 21 * packedBytes(18);
      assert.deepEqual(await alone.read(), (await all.read()).slice(size, 2 * size));
      for (const t of [features, one, all, alone]) t.dispose();
    });

    it('carries a plane that is larger than shared memory', async function () {
      if (device.kind !== 'cuda') this.skip(); // only a card has such a limit
      const grids: Grid[] = [
        [1, 1],
        [17, 9],
        [140, 136],
      ];
      await assertAgree(device, 'f32', [1, 140, 136, 3], grids, () => ({}));
    });

    it('bf16 features, inputs and sum; residuals in float', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const [B, H, W, d] = [2, 6, 8, 14];
      const grids = Int32Array.of(2, 2, 4, 6, 6, 8);
      const L = 4 + 24 + 48;
      const inputs = [
        stored(B, H, W, d),
        (on: Device) => Tensor.from(grids, [3, 2], 'i32', on),
        measure([3], [0.3, 0, 0.4]),
        measure(
          [B, L, d],
          randomArray(3, B * L * d).map((v) => (v + 1) / 2),
        ),
        null,
      ];
      for (const patchify of [0, 1]) {
        const sizes = patchify ? [L / 4, 4 * d] : [L, d];
        const outputs = [
          bits(B, sizes[0]!, packedBytes(sizes[1]!)),
          stored(B, sizes[0]! - (patchify ? 1 : 4), sizes[1]!),
          stored(B, H, W, d),
          stored(B, L, d),
          bits(B, L, d),
        ];
        await assertMixed16(device, Op.multiscaleResidual, inputs, outputs, {
          params: [1, patchify, 1, RandomStream.bitFlip, 0],
        });
      }
    });

    it('leaves inputs in bf16 beside features in f32, rounded once', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const features = random(device, 4, [2, 6, 8, 14]);
      const grids = [
        [2, 2],
        [4, 6],
        [6, 8],
      ] as const;
      for (const patchify of [false, true]) {
        const [wide, narrow] = [
          multiscaleResidual(features, grids, { patchify }),
          multiscaleResidual(features, grids, { patchify, inputs: 'bf16' }),
        ];
        using rounded = cast(wide.inputs_BLD!, 'bf16');
        assert.deepEqual(await narrow.inputs_BLD!.read(), await rounded.read());
        for (const name of ['labels_BLP', 'sum_BHWd'] as const)
          assert.deepEqual(await narrow[name].read(), await wide[name].read());
        for (const { labels_BLP, inputs_BLD, sum_BHWd } of [wide, narrow])
          for (const t of [labels_BLP, inputs_BLD, sum_BHWd]) t?.dispose();
      }
      features.dispose();
    });

    it('refuses grids that do not fit, noise without a share, and gradients', () => {
      const features = random(device, 1, [1, 4, 4, 3]);
      const keys = drawKeys([{ seed: 1, image: 0 }], device);
      for (const grids of [[], [[5, 1]], [[0, 1]], [[1.5, 1]]] as Grid[][])
        assert.throws(() => multiscaleResidual(features, grids), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => multiscaleResidual(features, [[1, 1]], { patchify: true }), { code: 'INVALID_ARGUMENT' });
      for (const magnitude of [0, -1, Number.NaN, 1e39])
        assert.throws(() => multiscaleResidual(features, [[1, 1]], { magnitude }), { code: 'INVALID_ARGUMENT' });
      const noise = { strengths: [2], draws: { keys }, requant: true };
      assert.throws(() => multiscaleResidual(features, [[1, 1]], { noise }), { code: 'INVALID_ARGUMENT' });
      const tape = new Tape().watch(features);
      assert.throws(() => tape.run(() => multiscaleResidual(features, [[1, 1]])), { code: 'NOT_DIFFERENTIABLE' });
      features.dispose();
      keys.dispose();
    });
  });
}

describe('reductions over tokens', () => {
  it('are the same with one thread and with three', async () => {
    const grids: Grid[] = [
      [1, 1],
      [3, 3],
      [8, 8],
    ];
    const results: ArrayLike<number>[][] = [];
    for (const threads of [1, 3]) {
      const device = Device.create('cpu', { threads });
      const outputs = scope(() => {
        const features = random(device, 1, [7, 8, 8, 33]);
        const { z, bits } = bsqQuantize(features);
        const labels = packBits(bits);
        const factorised = bsqPenalties(z);
        const joint = lfqPenalties(random(device, 2, [700, 6]), { inverseTemperature: 1 });
        const { loss } = bitLoss(features, labels, null);
        const keys = drawKeys(
          Array.from({ length: 7 }, (_, image) => ({ seed: 3, image })),
          device,
        );
        const noise = { strengths: [0.3, 0.3, 0.3], draws: { keys }, requant: true };
        const { labels_BLP, sum_BHWd } = multiscaleResidual(features, grids, { noise });
        return [...Object.values(factorised), ...Object.values(joint), loss, labels_BLP, sum_BHWd];
      });
      results.push(await Promise.all(outputs.map((t) => t.read())));
      for (const t of outputs) t.dispose();
      device.close();
    }
    assert.deepEqual(results[1], results[0]);
  });
});
