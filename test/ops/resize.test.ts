import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { toFloat32 } from '../../lib/io/tensor_data.js';
import { Op } from '../../lib/ops/generated.js';
import * as ops from '../../lib/ops/resize.js';
import { run } from '../../lib/ops/run.js';
import { permute } from '../../lib/ops/shape.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertBf16 } from '../support/bf16.js';
import { readGoldenJson, requireGolden } from '../support/goldens.js';
import { assertClean, assertGradients, assertMatchesReference, isaDevices, randomArray } from '../support/numeric.js';

const modes = { area: ops.resizeArea, linear: ops.resizeLinear, nearest: ops.resizeNearest } as const;
type Mode = keyof typeof modes;
/** As in native/ops/resize/resize.h. */
const code = { area: 0, linear: 1, nearest: 2 } as const;

/** Weight of input position i in output position o, from the definition of each mode. */
function weight(mode: Mode, o: number, i: number, from: number, to: number): number {
  if (mode === 'nearest') return i === Math.floor((o * from) / to) ? 1 : 0;
  if (mode === 'area') {
    const start = Math.floor((o * from) / to);
    const end = Math.ceil(((o + 1) * from) / to);
    return i >= start && i < end ? 1 / (end - start) : 0;
  }
  // A tent around the half-pixel centre; what falls outside the border belongs to the border.
  const centre = Math.min(Math.max(((o + 0.5) * from) / to - 0.5, 0), from - 1);
  return Math.max(0, 1 - Math.abs(centre - i));
}

function reference(mode: Mode, x: Float64Array, [b, h, w, c]: number[], [oh, ow]: ops.Size): number[] {
  const out: number[] = [];
  for (let n = 0; n < b!; n++)
    for (let oy = 0; oy < oh; oy++)
      for (let ox = 0; ox < ow; ox++)
        for (let k = 0; k < c!; k++) {
          let sum = 0;
          for (let y = 0; y < h!; y++)
            for (let z = 0; z < w!; z++)
              sum += weight(mode, oy, y, h!, oh) * weight(mode, ox, z, w!, ow) * x[((n * h! + y) * w! + z) * c! + k]!;
          out.push(sum);
        }
  return out;
}

const sizes: [number[], ops.Size][] = [
  [
    [2, 5, 7, 3],
    [3, 11],
  ],
  [
    [1, 16, 16, 16],
    [6, 12],
  ],
  [
    [1, 4, 6, 33],
    [16, 15],
  ],
  [
    [2, 1, 1, 17],
    [5, 4],
  ],
  [
    [1, 9, 8, 35],
    [1, 1],
  ],
  [
    [1, 3, 31, 1],
    [31, 3],
  ],
];

interface Golden {
  config: { scale_schedule: [number, number, number][] };
  checks: { match: string; atol?: number }[];
}

for (const [isa, device] of isaDevices()) {
  const [exact, tolerance] = device.kind === 'cuda' ? (['f32', 2e-6] as const) : (['f64', 1e-12] as const);
  describe(`resize on ${isa}`, () => {
    for (const mode of Object.keys(modes) as Mode[]) {
      it(`${mode} follows its definition at awkward sizes, with gradients`, async () => {
        for (const [shape, size] of sizes) {
          const values = randomArray(1, sizeOf(shape));
          const y = scope(() => modes[mode](Tensor.from(values, shape, exact, device), size));
          const got = await y.readFloats();
          y.dispose();
          const want = reference(mode, values, shape, size);
          for (let i = 0; i < want.length; i++) assert.ok(Math.abs(got[i]! - want[i]!) < tolerance, `${shape} ${i}`);
          await assertMatchesReference(device, (x) => modes[mode](x, size), [shape]);
        }
        for (const [shape, size] of [
          [
            [2, 5, 4, 2],
            [3, 7],
          ],
          [
            [1, 3, 4, 3],
            [7, 2],
          ],
          [
            [1, 1, 6, 1],
            [4, 1],
          ],
          [
            [1, 4, 1, 1],
            [64, 1],
          ],
        ] as [number[], ops.Size][])
          await assertGradients(device, (x) => modes[mode](x, size), [shape]);
      });
    }
    it('big windows, and gradients into small grids, equal f64; bf16 is rounded once', async () => {
      const cases: [number[], ops.Size][] = [
        [
          [1, 96, 80, 12],
          [1, 2],
        ],
        [
          [2, 3, 2, 8],
          [64, 100],
        ],
        [
          [1, 40, 6, 5],
          [40, 3],
        ],
      ];
      for (const [shape, size] of cases)
        for (const mode of Object.keys(modes) as Mode[]) {
          const y = [shape[0]!, ...size, shape[3]!];
          await assertMatchesReference(device, (x) => modes[mode](x, size), [shape]);
          await assertMatchesReference(
            device,
            (gy) => run(Op.resample, [gy], [{ dtype: gy.dtype, shape }], [code[mode], 1])[0]!,
            [y],
          );
          if (device.kind !== 'cuda') continue; // the processor computes in f32 and f64
          await assertBf16(device, Op.resample, [shape], [y], { params: [code[mode], 0] });
          await assertBf16(device, Op.resample, [y], [shape], { params: [code[mode], 1] });
        }
    });
    it('a picture of the asked size passes through', () => {
      const x = Tensor.from([1, 2, 3, 4], [1, 2, 2, 1], 'f32', device);
      assert.equal(ops.resizeArea(x, [2, 2]), x);
      assert.throws(() => ops.resizeArea(x, [0, 2]), { code: 'INVALID_SHAPE' });
      x.dispose();
    });
    it('pixelUnshuffle puts the pixel (dy, dx) of channel c into channel 4c + 2dy + dx; pixelShuffle undoes it', async () => {
      const live = device.stats().liveTensors;
      const [b, h, w, c] = [2, 4, 6, 3];
      const x = Tensor.from(
        Array.from({ length: b * h * w * c }, (_, i) => i),
        [b, h, w, c],
        'f32',
        device,
      );
      const y = ops.pixelUnshuffle(x);
      const back = ops.pixelShuffle(y);
      assert.deepEqual(y.shape, [2, 2, 3, 12]);
      const got = await y.readFloats();
      for (let n = 0; n < b; n++)
        for (let i = 0; i < h; i++)
          for (let j = 0; j < w; j++)
            for (let k = 0; k < c; k++) {
              const channel = 4 * k + 2 * (i % 2) + (j % 2);
              const at = ((n * (h / 2) + (i >> 1)) * (w / 2) + (j >> 1)) * 4 * c + channel;
              assert.equal(got[at], ((n * h + i) * w + j) * c + k);
            }
      assert.deepEqual(await back.read(), await x.read());
      for (const t of [x, y, back]) t.dispose();
      await assertClean(device, live);
      await assertGradients(device, ops.pixelUnshuffle, [[1, 4, 2, 3]]);
      await assertGradients(device, ops.pixelShuffle, [[1, 2, 3, 8]]);
    });

    const golden = (context: Mocha.Context, name: string) => {
      const { config, checks } = readGoldenJson<Golden>(context, `tokenizer/${name}.json`);
      const tensors = parseSafetensors(readFileSync(requireGolden(context, `tokenizer/${name}.safetensors`)));
      const glob = (match: string) => new RegExp(`^${match.replaceAll('.', '\\.').replaceAll('*', '.*')}$`);
      return {
        schedule: config.scale_schedule,
        atol: (tensor: string): number =>
          checks.find(({ match }) => glob(match).test(tensor))?.atol ?? assert.fail(tensor),
        has: (tensor: string): boolean => tensors.has(tensor),
        shape: (tensor: string): Shape => tensors.get(tensor)!.shape,
        values: (tensor: string): Float32Array => toFloat32(tensors.get(tensor) ?? assert.fail(tensor)),
      };
    };
    type GoldenData = ReturnType<typeof golden>;
    /** Resizes a stored [B, C, H, W] tensor and returns it in the same order of axes. */
    const resized = async (data: GoldenData, from: string, mode: Mode, size: ops.Size): Promise<Float32Array> => {
      const y = scope(() => {
        const x_BHWC = permute(Tensor.from(data.values(from), data.shape(from), 'f32', device), [0, 2, 3, 1]);
        return permute(modes[mode](x_BHWC, size), [0, 3, 1, 2]);
      });
      const out = (await y.read()) as Float32Array;
      y.dispose();
      return out;
    };
    const assertClose = (got: Float32Array, want: Float32Array, atol: number, what: string): void => {
      assert.equal(got.length, want.length);
      for (let i = 0; i < want.length; i++)
        assert.ok(Math.abs(got[i]! - want[i]!) <= atol, `${what}[${i}]: ${got[i]} is not ${want[i]} ± ${atol}`);
    };

    for (const name of ['quant_eval_d16_r1.000', 'quant_eval_d32_r0.500', 'quant_eval_d16_r1.500_0.25M'])
      it(`area agrees with the recorded quantiser ${name}`, async function () {
        const data = golden(this, name);
        const { schedule } = data;
        let compared = 0;
        for (const [k, [, h, w]] of schedule.entries()) {
          for (const [from, to] of [
            [`out.residual.${k}`, `out.lfq_in.${k}`],
            [`out.cumulative.${k - 1}`, `out.var_input.${k - 1}`],
          ] as const) {
            if (!data.has(from) || !data.has(to)) continue;
            assertClose(await resized(data, from, 'area', [h, w]), data.values(to), data.atol(to), to);
            compared++;
          }
        }
        assert.ok(compared >= 4);
      });
    it('linear agrees with the recorded sums of codes, up and down', async function () {
      const data = golden(this, 'bits_to_codes_d32_r1.000');
      const [, height, width] = data.schedule.at(-1)!;
      for (const k of data.schedule.keys()) {
        const up = await resized(data, `out.codes.${k}`, 'linear', [height, width]);
        if (k > 0) for (const [i, v] of data.values(`out.summed.${k - 1}`).entries()) up[i]! += v;
        assertClose(up, data.values(`out.summed.${k}`), data.atol(`out.summed.${k}`), `out.summed.${k}`);
        const next = data.schedule[k + 1];
        if (!next) continue;
        const input = `out.next_input.${k}`;
        const got = await resized(data, `out.summed.${k}`, 'linear', [next[1], next[2]]);
        assertClose(got, data.values(input), data.atol(input), input);
      }
    });
  });
}
