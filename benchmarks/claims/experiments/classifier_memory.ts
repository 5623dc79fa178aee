/** Weights and training memory of both classifiers. */
import { Device } from '../../../lib/device.js';
import { zeros } from '../../../lib/nn/init.js';
import { Linear } from '../../../lib/nn/linear.js';
import { placed } from '../../../lib/nn/module.js';
import { bitCrossEntropy } from '../../../lib/ops/bit_loss.js';
import { packedBytes } from '../../../lib/ops/bits.js';
import { indexLoss } from '../../../lib/ops/indices.js';
import { Tape } from '../../../lib/tape.js';
import { scope, Tensor } from '../../../lib/tensor.js';
import { AdamW } from '../../../lib/training/index.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { bytes } from '../memory.js';
import { levels, over, where } from '../statistics.js';

const HEADS = ['bitwise', 'softmax'] as const;
type HeadKind = (typeof HEADS)[number];

const WIDTH = 2048;
/** Tokens of a picture of 256 x 256 pixels in the published schedules. */
const TOKENS = 521;
const BITS: Readonly<Record<HeadKind, readonly number[]>> = {
  bitwise: [8, 12, 14, 16, 32, 64],
  softmax: [8, 12, 14, 16],
};
/** Above this a softmax is planned and counted by the allocator, but not allocated. */
const MOST_ALLOCATED = 12;
/** Sizes that are beyond any allocator. */
const COMPUTED = [18, 20, 32, 64] as const;

const outputs = (head: HeadKind, bits: number): number => (head === 'bitwise' ? 2 * bits : 2 ** bits);
const parameterCount = (head: HeadKind, bits: number): number => (WIDTH + 1) * outputs(head, bits);

/** One training step of the last layer alone, with the official optimizer; the hidden states are given. */
async function step(head: HeadKind, bits: number, device: Device): Promise<Values> {
  const layer = placed({ device }, () => new Linear(WIDTH, outputs(head, bits), { init: zeros })).reserve();
  const weightBytes = device.stats().liveBytes;
  const optimizer = await AdamW.create(layer.namedParameters(), { betas: [0.9, 0.97], clip: 1 });
  const hidden = Tensor.empty([TOKENS, WIDTH], 'f32', device);
  const labels = Tensor.from(new Uint8Array(TOKENS * packedBytes(bits)), [TOKENS, packedBytes(bits)], 'u8', device);
  await device.sync();
  const { liveBytes } = device.resetPeak();
  const tape = new Tape().watch(hidden, ...optimizer.parameters);
  const { loss, perToken, correct } = tape.run(() =>
    scope(() => {
      const { weight, bias } = layer.operands;
      return head === 'bitwise'
        ? bitCrossEntropy(hidden, weight, bias, labels, null)
        : indexLoss(layer.forward(hidden), labels, null);
    }),
  );
  const one = Tensor.from([1], [], 'f32', device);
  const grads = tape.backward([{ of: loss, cotangent: one }]);
  const norm = optimizer.update(grads, { lr: 0, weightDecay: 0 });
  await device.sync();
  const { peakBytes } = device.stats();
  grads.dispose();
  for (const t of [loss, perToken, correct, one, norm, hidden, labels]) t.dispose();
  return {
    parameters: layer.parameterCount(),
    weight_bytes: weightBytes,
    step_bytes: peakBytes - liveBytes,
    training_bytes: peakBytes,
  };
}

async function run(head: HeadKind, bits: number, allocated: boolean, context: Context): Promise<Values> {
  const device = Device.create('cpu', { threads: context.device.stats().threads, dry: !allocated });
  try {
    return await step(head, bits, device);
  } finally {
    device.close();
  }
}

function findings(results: readonly Result[]): Finding[] {
  const at = (head: HeadKind, value: string) => over(where(results, { head, bits: 16 }), value)?.mean;
  const [own, theirs] = [at('bitwise', 'parameters'), at('softmax', 'parameters')];
  const [weights, theirWeights] = [at('bitwise', 'weight_bytes'), at('softmax', 'weight_bytes')];
  const [memory, theirMemory] = [at('bitwise', 'training_bytes'), at('softmax', 'training_bytes')];
  if (!own || !theirs || !weights || !theirWeights || !memory || !theirMemory) return [];
  const saved = 100 * (1 - weights / theirWeights);
  return [
    {
      verdict: saved >= 99.9 ? 'holds' : 'does not hold in small',
      text: `At d = 16 and width ${WIDTH} the bitwise classifier has ${own.toLocaleString('en')} parameters in ${bytes(weights)} where the conventional one has ${theirs.toLocaleString('en')} in ${bytes(theirWeights)}: ${saved.toFixed(2)} % less. A training step of ${TOKENS} tokens holds ${bytes(memory)} against ${bytes(theirMemory)}, hidden states, gradients and both moments included.`,
    },
  ];
}

export const classifierMemory: Experiment = {
  name: 'classifier-memory',
  version: 1,
  title: 'Memory of the classifier',
  claim:
    'Predicting d bits takes d binary classifiers where the conventional classifier has 2^d classes: at V = 2^16 about 0.065M parameters instead of 124M, 99.95 % fewer.',
  method: `The last layer of each head at width ${WIDTH}, alone: bytes of its weights, and the most that the allocator held in one training step (loss, gradients, AdamW) of ${TOKENS} tokens in f32. A softmax above 2^${MOST_ALLOCATED} was planned on a device that counts allocations without making them; rows above 2^16 are arithmetic. Deterministic, so there is one seed.`,
  cells(short) {
    return HEADS.flatMap((head) =>
      (short ? BITS[head].slice(0, 1) : BITS[head]).flatMap((bits) => {
        const allocated = head === 'bitwise' || bits <= MOST_ALLOCATED;
        const config = { head, bits, allocated, tokens: TOKENS, width: WIDTH };
        return [{ config, seconds: 1, round: 0, run: (context: Context) => run(head, bits, allocated, context) }];
      }),
    );
  },
  read(results) {
    if (results.length === 0) return { tables: [], plots: [], findings: [] };
    const rows = levels(results, 'bits').map((bits) => [
      `2^${bits}`,
      ...HEADS.flatMap((head) => {
        const own = where(results, { head, bits });
        if (own.length === 0) return ['–', '–', '–'];
        const value = (name: string): number => own[0]!.values[name]!;
        const how = own[0]!.config.allocated ? '' : ', counted';
        return [
          value('parameters').toLocaleString('en'),
          bytes(value('weight_bytes')),
          `${bytes(value('training_bytes'))}${how}`,
        ];
      }),
    ]);
    const computed = COMPUTED.map((bits) => [
      `2^${bits}, computed`,
      ...HEADS.map(
        (head) => `${parameterCount(head, bits).toPrecision(4)} parameters, ${bytes(4 * parameterCount(head, bits))}`,
      ),
    ]);
    return {
      tables: [
        {
          head: ['vocabulary', ...HEADS.flatMap((head) => [`${head}: parameters`, 'weights', 'training step'])],
          rows,
        },
        { head: ['vocabulary', ...HEADS], rows: computed },
      ],
      plots: [
        {
          name: 'classifier-memory',
          title: `Training memory of the classifier, width ${WIDTH}`,
          x: 'bits of a token, d',
          y: 'bytes',
          logX: true,
          logY: true,
          ticks: [8, 16, 32, 64].map((d) => [d, `2^${d}`]),
          series: HEADS.map((head) => ({
            name: head,
            points: levels(where(results, { head }), 'bits').map((bits) => ({
              x: bits,
              y: over(where(results, { head, bits }), 'training_bytes')!,
            })),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
