import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { add, mul, scale, sumTo } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import {
  bsqPenalties,
  bsqQuantize,
  l2Normalize,
  lfqPenalties,
  lfqQuantize,
  type Penalties,
  signQuantize,
} from '../../lib/ops/quantize.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertMixed16, bits, measure, stored } from '../support/bf16.js';
import { channelsFirst, channelsLast, GoldenCase, type HostArray } from '../support/golden_case.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  referenceOf,
} from '../support/numeric.js';

const terms = (p: Penalties): Tensor[] => [p.perSampleEntropy, p.codebookEntropy, p.commitment];

/** d f(x) / dx in f32. */
async function gradient(device: Device, x: HostArray, f: (x: Tensor) => Tensor): Promise<Float64Array> {
  const input = Tensor.from(x.data, x.shape, 'f32', device);
  const tape = new Tape().watch(input);
  const y = tape.run(() => f(input));
  const one = Tensor.from([1], [], 'f32', device);
  const grads = tape.backward([{ of: y, cotangent: one }]);
  const g = grads.get(input) ?? assert.fail('no gradient');
  const data = Float64Array.from(await g.read());
  grads.dispose();
  for (const t of [one, y, input]) t.dispose();
  return data;
}

for (const [isa, device] of isaDevices()) {
  describe(`quantize on ${isa}`, () => {
    it('l2Normalize makes unit vectors', async () => {
      for (const d of [1, 14, 16, 31, 33]) {
        await assertMatchesReference(device, l2Normalize, [[3, 5, d]]);
        await assertGradients(device, l2Normalize, [[2, d]], { tolerance: 1e-5 });
      }
    });

    it('l2Normalize holds a vanishing norm at 1e-12', async () => {
      const live = device.stats().liveTensors;
      const x = Tensor.from([1e-13, 0, -1e-13, 0], [2, 2], 'f32', device);
      const z = l2Normalize(x);
      const got = await z.read();
      for (const [i, want] of [0.1, 0, -0.1, 0].entries()) assert.ok(Math.abs(got[i]! - want) < 1e-7);
      z.dispose();
      x.dispose();
      await assertClean(device, live);
    });

    it('signQuantize sends zeros of either sign and NaN to bit 0', async () => {
      const z = Tensor.from([0, -0, Number.NaN, 1e-30, -1e-30], [5], 'f32', device);
      const { codes, bits } = signQuantize(z, 0.5);
      assert.deepEqual([...(await bits.read())], [0, 0, 0, 1, 0]);
      assert.deepEqual([...(await codes.read())], [-0.5, -0.5, -0.5, 0.5, -0.5]);
      for (const t of [z, codes, bits]) t.dispose();
    });

    it('penalties match the reference and finite differences', async () => {
      for (const [rows, d] of [
        [1, 1],
        [3, 14],
        [65, 16],
        [130, 33],
      ] as const) {
        const bsq = (z: Tensor) => terms(bsqPenalties(l2Normalize(z), 0.5));
        await assertMatchesReference(device, bsq, [[rows, d]], { tolerance: 1e-5 });
        await assertGradients(device, (z) => terms(bsqPenalties(z, 3)), [[Math.min(rows, 7), d]], { tolerance: 1e-5 });
      }
      for (const [rows, d] of [
        [1, 1],
        [5, 3],
        [67, 6],
      ] as const) {
        const lfq = (z: Tensor) => terms(lfqPenalties(z, { inverseTemperature: 0.7 }));
        await assertMatchesReference(device, lfq, [[rows, d]], { tolerance: 1e-5 });
        await assertGradients(device, lfq, [[Math.min(rows, 5), d]], { tolerance: 1e-5 });
      }
    });

    it('with unit logits per bit the joint per-sample entropy is the factorised one', async () => {
      // Codes +-1/sqrt(d) and the same temperature: the joint distribution is the product of the bits'.
      const d = 5;
      const z = random(referenceOf(device), 3, [40, d], 'f64', 0.5);
      const [joint, factorised] = scope(() => [
        lfqPenalties(z, { scale: 1 / Math.sqrt(d), inverseTemperature: 2 }).perSampleEntropy,
        bsqPenalties(z, 2).perSampleEntropy,
      ]);
      const [a, b] = [(await joint.read())[0]!, (await factorised.read())[0]!];
      assert.ok(Math.abs(a - b) < 1e-5 * b, `${a} and ${b}`);
      for (const t of [z, joint, factorised]) t.dispose();
    });

    for (const name of ['bsq_train_d16', 'bsq_train_d32_oldquant', 'bsq_train_d64_seq']) {
      it(`agrees with ${name}`, async function () {
        interface Config {
          dim: number;
          bsq_kwargs: { new_quant: boolean; zeta?: number; gamma?: number; gamma0?: number };
          lfq_weight: number;
        }
        const golden = GoldenCase.read<Config>(this, `tokenizer/${name}`);
        const { dim, bsq_kwargs, lfq_weight } = golden.config;
        const { zeta = 1, gamma = 1, gamma0 = 1, new_quant } = bsq_kwargs;
        const stored = golden.array('in.x');
        const image = stored.shape.length === 5;
        const last = (a: HostArray) => (image ? channelsLast(a) : a);
        const x = last(stored);
        const back = (data: ArrayLike<number>) => (image ? channelsFirst(data, x.shape) : data);
        const quantize = (t: Tensor) => bsqQuantize(t, new_quant ? 1 : 1 / Math.sqrt(dim));
        const aux = (p: Penalties) => {
          const entropy = add(scale(p.perSampleEntropy, gamma0), scale(p.codebookEntropy, -gamma));
          return add(scale(p.commitment, 0.25), scale(entropy, (0.1 * zeta) / 100));
        };
        const r = last(golden.array('in.cotangent'));
        const through = (codes: Tensor) => sumTo(mul(codes, Tensor.from(r.data, r.shape, 'f32', device)), []);

        const live = device.stats().liveTensors;
        const input = Tensor.from(x.data, x.shape, 'f32', device);
        const out = scope(() => {
          const q = quantize(input);
          const p = bsqPenalties(q.z);
          return { codes: q.codes, bits: q.bits, p, aux: aux(p) };
        });
        golden.check('out.quantized', back(await out.codes.read()));
        golden.check('out.bits', await out.bits.read());
        golden.check('out.aux_loss', await out.aux.read());
        golden.check('out.per_sample_entropy', await out.p.perSampleEntropy.read());
        golden.check('out.codebook_entropy', await out.p.codebookEntropy.read());
        golden.check('out.commitment', await out.p.commitment.read());
        golden.check('out.avg_prob', await out.p.meanProbability.read());
        for (const t of [input, out.codes, out.bits, out.aux, ...terms(out.p), out.p.meanProbability]) t.dispose();

        const losses: Record<string, (t: Tensor) => Tensor> = {
          'out.grad_aux_loss': (t) => aux(bsqPenalties(quantize(t).z)),
          'out.grad_per_sample_entropy': (t) => bsqPenalties(quantize(t).z).perSampleEntropy,
          'out.grad_codebook_entropy': (t) => bsqPenalties(quantize(t).z).codebookEntropy,
          'out.grad_commitment': (t) => bsqPenalties(quantize(t).z).commitment,
          'out.grad_straight_through': (t) => through(quantize(t).codes),
          'out.grad_total': (t) => {
            const q = quantize(t);
            return add(scale(aux(bsqPenalties(q.z)), lfq_weight), through(q.codes));
          },
        };
        for (const [tensor, f] of Object.entries(losses)) golden.check(tensor, back(await gradient(device, x, f)));
        await assertClean(device, live);
      });
    }

    it('agrees with bsq_edge_d16 on zeros, tiny and huge values', async function () {
      const golden = GoldenCase.read(this, 'tokenizer/bsq_edge_d16');
      const x = channelsLast(golden.array('in.x'));
      const input = Tensor.from(x.data, x.shape, 'f32', device);
      const { codes, bits, z } = bsqQuantize(input);
      golden.checkMap('out.quantized', await codes.read(), x.shape);
      golden.check('out.bits', await bits.read());
      for (const t of [input, codes, bits, z]) t.dispose();
    });

    for (const name of ['lfq_ancestor_d8', 'lfq_ancestor_d8_spherical']) {
      it(`agrees with ${name}`, async function () {
        interface Config {
          lfq_kwargs: {
            entropy_loss_weight: number;
            commitment_loss_weight: number;
            spherical?: boolean;
            codebook_scale?: number;
          };
          inv_temperature: number;
        }
        const golden = GoldenCase.read<Config>(this, `tokenizer/${name}`);
        const { lfq_kwargs: weights, inv_temperature: inverseTemperature } = golden.config;
        const options = {
          scale: weights.codebook_scale ?? 1,
          spherical: weights.spherical ?? false,
          inverseTemperature,
        };
        const x = golden.array('in.x');
        const r = golden.array('in.cotangent');
        const aux = (t: Tensor) => {
          const p = lfqPenalties(lfqQuantize(t, options).z, options);
          const entropy = add(p.perSampleEntropy, scale(p.codebookEntropy, -1));
          return add(scale(entropy, weights.entropy_loss_weight), scale(p.commitment, weights.commitment_loss_weight));
        };
        const through = (t: Tensor) =>
          sumTo(mul(lfqQuantize(t, options).codes, Tensor.from(r.data, r.shape, 'f32', device)), []);
        const live = device.stats().liveTensors;
        const input = Tensor.from(x.data, x.shape, 'f32', device);
        const out = scope(() => {
          const q = lfqQuantize(input, options);
          return { q, p: lfqPenalties(q.z, options), aux: aux(input) };
        });
        golden.check('out.quantized', await out.q.codes.read());
        const bits = await out.q.bits.read();
        const indices = new Array<number>(bits.length / 8).fill(0);
        for (let i = 0; i < bits.length; i++) indices[i >> 3] = 2 * indices[i >> 3]! + bits[i]!;
        golden.check('out.indices', indices);
        golden.check('out.per_sample_entropy', await out.p.perSampleEntropy.read());
        golden.check('out.codebook_entropy', await out.p.codebookEntropy.read());
        golden.check('out.commitment', await out.p.commitment.read());
        golden.check('out.aux_loss', await out.aux.read());
        for (const t of [input, out.q.codes, out.q.bits, out.aux, ...terms(out.p), out.p.meanProbability]) t.dispose();
        if (options.spherical) out.q.z.dispose();
        golden.check('out.grad_aux_loss', await gradient(device, x, aux));
        golden.check('out.grad_straight_through', await gradient(device, x, through));
        golden.check('out.grad_total', await gradient(device, x, (t) => add(aux(t), through(t))));
        await assertClean(device, live);
      });
    }

    it('a codebook of as many bits as a card cuts into tiles', async () => {
      const lfq = (z: Tensor) => terms(lfqPenalties(z, { inverseTemperature: 0.4 }));
      // Nine bits: two high parts; thirteen: two tiles of sixteen.
      for (const d of [9, 13]) {
        await assertMatchesReference(device, lfq, [[19, d]], { tolerance: 1e-5 });
        if (device.kind === 'cuda') await assertGradients(device, lfq, [[5, d]]);
      }
    });

    it('bf16 is computed in float; penalties and their cotangents are f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [rows, d] of [
        [3, 2],
        [65, 16],
        [9, 33],
        [5, 300],
      ] as const) {
        await assertMixed16(device, Op.l2Normalize, [stored(rows, d)], [stored(rows, d)]);
        await assertMixed16(device, Op.l2NormalizeBackward, [stored(rows, d), stored(rows, d)], [stored(rows, d)]);
        await assertMixed16(device, Op.signQuantize, [stored(rows, d)], [stored(rows, d), bits(rows, d)], {
          params: [0.25],
        });
        const [sums, params] = [
          [measure(), measure(), measure()],
          [3, 0.25],
        ];
        const factorised = [...sums, measure([d, 2])];
        await assertMixed16(device, Op.bitPenalties, [stored(rows, d)], factorised, { params, tolerance: 1e-5 });
        const odds = randomArray(5, 2 * d).map(Math.abs);
        const given = [stored(rows, d), measure([d, 2], odds), ...sums];
        const options = { params, tolerance: 1e-5 };
        await assertMixed16(device, Op.bitPenaltiesBackward, given, [stored(rows, d)], options);
      }
      for (const [rows, d] of [
        [1, 1],
        [35, 5],
        [17, 9],
      ] as const) {
        const [sums, options] = [[measure(), measure(), measure()], { params: [1.5, 0.5], tolerance: 1e-5 }];
        const joint = [...sums, measure([2 ** d])];
        await assertMixed16(device, Op.jointPenalties, [stored(rows, d)], joint, options);
        const odds = randomArray(5, 2 ** d).map(Math.abs);
        const given = [stored(rows, d), measure([2 ** d], odds), ...sums];
        await assertMixed16(device, Op.jointPenaltiesBackward, given, [stored(rows, d)], options);
      }
    });

    it('refuses a joint codebook of more than 16 bits', () => {
      const z = random(device, 1, [2, 17]);
      assert.throws(() => lfqPenalties(z), { code: 'INVALID_ARGUMENT' });
      z.dispose();
    });
  });
}
