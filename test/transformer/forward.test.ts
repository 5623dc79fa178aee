import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { toFloat64 } from '../../lib/io/tensor_data.js';
import { placed } from '../../lib/nn/module.js';
import { packBits } from '../../lib/ops/bits.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import type { ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { officialInfinityConfig } from '../../lib/transformer/config.js';
import { tokenWeights } from '../../lib/transformer/head.js';
import { type ForwardOptions, InfinityTransformer } from '../../lib/transformer/infinity.js';
import { randomArray, randomLabels, relativeError } from '../support/numeric.js';
import { type CaseJson, TransformerCase } from '../support/transformer_case.js';

interface ForwardJson extends CaseJson {
  readonly cond_drop: { rate: number; uniform_draws: number[]; dropped: number[] } | null;
  readonly drop_path: { block: number; part: 'sa' | 'ffn'; keep: number[] }[] | null;
}

const CASES = [
  'b1_forward_square',
  'b2_forward_h_div_w_0.75',
  'b3_forward_unshared_adaln',
  'b4_forward_patchify_channels',
  'b5_forward_optional_flags',
  'b6_forward_text_drop_and_drop_path',
];

describe('transformer forward', () => {
  for (const name of CASES)
    for (const checkpointing of name.startsWith('b1') ? [false, true] : [false])
      it(`${name} has the logits, losses, activations and gradients of the reference${checkpointing ? ', recomputing blocks' : ''}`, async function () {
        const live = Device.default().stats().liveTensors;
        const golden = new TransformerCase<ForwardJson>(this, name);
        const { json } = golden;
        const model = golden.model();
        const B = golden.integers('lens').length;
        const inputs = { x: golden.floats('x_BLC_wo_prefix'), kv_NCt: golden.floats('kv_compact') };
        const labels = scope(() => {
          const bits = Uint8Array.from(golden.integers('gt_bits'));
          return packBits(Tensor.from(bits, golden.host('gt_bits').shape as number[], 'u8'));
        });
        const taps = new Map<string, Tensor>();
        const flags = (part: 'sa' | 'ffn', i: number) =>
          json.drop_path?.find((d) => d.block === i && d.part === part)?.keep ?? new Array<number>(B).fill(1);
        const options: ForwardOptions = {
          text: { kv_NCt: inputs.kv_NCt, lens: golden.integers('lens') },
          schedule: json.scale_schedule,
          finest: golden.finest(),
          dropText: json.cond_drop?.uniform_draws.map((u) => u < json.cond_drop!.rate),
          dropPath: json.drop_path
            ? model.blocks.map((_, i) => ({ sa: flags('sa', i), ffn: flags('ffn', i) }))
            : undefined,
          checkpointing,
          tap: (tap, value) => {
            // Recomputed blocks are seen twice.
            taps.get(`act.${tap}`)?.dispose();
            taps.set(`act.${tap}`, value.retain());
          },
        };
        const tape = new Tape().watch(inputs.x, ...[...model.namedParameters()].map(([, t]) => t));
        const { hidden, reweighted } = tape.run(() => {
          const hidden = model.hidden(inputs.x, options);
          const { schedule } = options;
          return { hidden, reweighted: model.head.loss(hidden, labels, { schedule, reweight: true }) };
        });
        const one = Tensor.from([1], []);
        const grads = tape.backward([{ of: reweighted.loss, cotangent: one }]);

        const logits = model.head.classify(hidden);
        golden.check('logits', await logits.readFloats());
        const { schedule } = options;
        golden.check('loss_weight', tokenWeights(schedule, true));
        golden.check('loss_per_token', await reweighted.perToken.readFloats());
        for (const reweight of [true, false])
          for (const reduction of ['mean', 'sum'] as const) {
            const loss = model.head.loss(hidden, labels, { schedule, reweight, reduction });
            const variant = `loss_${reweight ? 'reweighted' : 'plain'}${reduction === 'sum' ? '_bitsum' : ''}`;
            golden.check(variant, await loss.loss.readFloats());
            for (const t of Object.values(loss)) t.dispose();
          }
        const correct = Float64Array.from(await reweighted.correct.readFloats()).reduce((a, b) => a + b, 0);
        assert.equal(correct, countRightBits(golden));
        for (const act of golden.outputs('act.*')) {
          const tap = taps.get(act) ?? assert.fail(`no activation ${act}`);
          const stored = golden.host(act).shape;
          const values = await tap.readFloats();
          // Activations of the residual stream are stored for the first sample only.
          golden.check(act, stored[0] === 1 && tap.rank === 3 ? values.subarray(0, values.length / B) : values);
        }
        const parameters = new Map(model.namedParameters());
        for (const stored of golden.outputs('grad*')) {
          const of = stored === 'grad_input.x_BLC_wo_prefix' ? inputs.x : parameters.get(stored.slice('grad.'.length));
          const grad = grads.get(of ?? assert.fail(`no parameter of ${stored}`)) ?? assert.fail(`no ${stored}`);
          golden.check(stored, await grad.readFloats());
        }

        const held = [...taps.values(), ...Object.values(reweighted), ...Object.values(inputs)];
        for (const t of [...held, hidden, logits, labels, one]) t.dispose();
        grads.dispose();
        model.dispose();
        assert.equal(Device.default().stats().liveTensors, live, 'tensors leaked');
      });

  it('gradients reach the text features: finite differences in f64, some prompts dropped', async () => {
    const schedule: ScaleSchedule = [
      [1, 1, 1],
      [1, 2, 3],
    ];
    const config = officialInfinityConfig('infinity_layer12', {
      embed_dim: 16,
      depth: 2,
      num_heads: 2,
      block_chunks: 2,
      text_channels: 128,
      text_maxlen: 4,
      vae_embed_dim: 3,
      scale_schedules: [schedule],
    });
    using model = placed({ dtype: 'f64' }, () => new InfinityTransformer(config)).initialize(2);
    const lens = [2, 1, 3];
    const values = randomArray(1, 6 * 128);
    using x = Tensor.from(randomArray(2, 3 * 6 * 3), [3, 6, 3], 'f64');
    using labels = randomLabels(3, [3, 7, 3]);
    const lossOf = (kv_NCt: Tensor) =>
      model.loss(x, labels, { text: { kv_NCt, lens }, schedule, reweight: true, dropText: [false, true, false] }).loss;
    using kv = Tensor.from(values, [6, 128], 'f64');
    const tape = new Tape().watch(kv);
    using loss = tape.run(() => lossOf(kv));
    using one = Tensor.from([1], [], 'f64');
    const grads = tape.backward([{ of: loss, cotangent: one }]);
    const got = await (grads.get(kv) ?? assert.fail('no gradient of the text features')).readFloats();
    grads.dispose();
    const at = async (i: number, step: number): Promise<number> => {
      const moved = values.slice();
      moved[i]! += step;
      using features = Tensor.from(moved, [6, 128], 'f64');
      using y = scope(() => lossOf(features));
      return (await y.readFloats())[0]!;
    };
    const picked = [0, 130, 300, 511, 640, 767];
    const want: number[] = [];
    for (const i of picked) want.push(((await at(i, 1e-4)) - (await at(i, -1e-4))) / 2e-4);
    assert.ok(
      relativeError(
        picked.map((i) => got[i]!),
        want,
      ) < 1e-6,
    );
    // The second prompt was dropped: nothing depends on its one row.
    assert.ok(got.slice(2 * 128, 3 * 128).every((g) => g === 0));
    assert.ok(want[0] !== 0);
  });

  it('a frozen network computes the same, in bf16 nearly the same, and cannot be trained', async function () {
    const golden = new TransformerCase(this, CASES[0]!);
    const schedule = golden.json.scale_schedule;
    using x = golden.floats('x_BLC_wo_prefix');
    using kv_NCt = golden.floats('kv_compact');
    const logitsOf = async (model: InfinityTransformer) => {
      using logits = model.forward(x, { schedule, text: { kv_NCt, lens: [5, 11] } });
      return logits.readFloats();
    };
    using model = golden.model();
    const want = await logitsOf(model);
    const bytes = () => Device.default().stats().liveBytes;
    for (const [format, tolerance] of [
      ['f32', 1e-5],
      ['bf16', 2e-2],
    ] as const) {
      const before = bytes();
      using frozen = golden.model().freeze(format);
      const error = relativeError(await logitsOf(frozen), want);
      assert.ok(error < tolerance, `${format}: ${error}`);
      if (format === 'bf16') assert.ok(bytes() - before < 0.75 * 4 * model.parameterCount());
      using labels = randomLabels(3, [2, 121, 16]);
      const options = { schedule, text: { kv_NCt, lens: [5, 11] } };
      assert.throws(() => frozen.loss(x, labels, options), { code: 'DISPOSED' });
    }
  });

  it('loads other numbers of unconditional rows and old training checkpoints', async function () {
    const golden = new TransformerCase(this, CASES[0]!);
    using model = golden.model();
    const state = await model.stateDict();
    const stored = state.get('cfg_uncond')!.data;
    state.set('lvl_1L', { shape: [1, 3], data: new Float32Array(3) });
    for (const text_maxlen of [4, 20]) {
      const config = { ...model.config, text_maxlen };
      using fresh = new InfinityTransformer(config).initialize(6);
      using other = new InfinityTransformer(config).initialize(6).load(state);
      const want = (await fresh.stateDict()).get('cfg_uncond')!.data;
      want.set(stored.subarray(0, want.length));
      assert.deepEqual((await other.stateDict()).get('cfg_uncond')!.data, want);
    }
  });

  it('refuses inputs, prompts and schedules that do not fit, by name', function () {
    const golden = new TransformerCase(this, CASES[0]!);
    using model = golden.model();
    const schedule = golden.json.scale_schedule;
    using x = golden.floats('x_BLC_wo_prefix');
    using kv_NCt = golden.floats('kv_compact');
    const text = { kv_NCt, lens: [5, 11] };
    const cases: [Partial<ForwardOptions>, string, RegExp][] = [
      [{ schedule: schedule.slice(1) }, 'INVALID_ARGUMENT', /schedule/],
      [{ schedule: schedule.slice(0, 4) }, 'INVALID_ARGUMENT', /teacher forcing/],
      [{ text: { kv_NCt, lens: [5, 10] } }, 'INVALID_ARGUMENT', /text features/],
      [{ text: { kv_NCt, lens: [0, 16] } }, 'PROMPT_EMPTY', /row of text/],
      [{ text: { kv_NCt, lens: [17] } }, 'PROMPT_TOO_LONG', /16 rows/],
      [{ dropPath: [{ sa: [1], ffn: [1, 1] }] }, 'INVALID_ARGUMENT', /dropPath/],
    ];
    for (const [wrong, code, message] of cases)
      assert.throws(() => model.forward(x, { schedule, text, ...wrong }), { code, message });
  });
});

/** Bits whose stored logits agree with the target. */
function countRightBits(golden: TransformerCase<ForwardJson>): number {
  const logits = toFloat64(golden.host('logits'));
  return golden.integers('gt_bits').filter((bit, i) => Number(logits[2 * i + 1]! > logits[2 * i]!) === bit).length;
}
