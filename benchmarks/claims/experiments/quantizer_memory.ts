/** Memory of the quantisers' entropies, and how many bits can be trained with a given amount. */
import { drawBatch } from '../../../lib/data/batch.js';
import { openDataset } from '../../../lib/data/dataset.js';
import { Device } from '../../../lib/device.js';
import { linear } from '../../../lib/ops/linear.js';
import { bsqPenalties, lfqPenalties } from '../../../lib/ops/quantize.js';
import { Tape } from '../../../lib/tape.js';
import { Tensor } from '../../../lib/tensor.js';
import type { QuantizerKind } from '../../../lib/tokenizer/quantizer.js';
import { TokenizerTrainer } from '../../../lib/training/index.js';
import { embeddedShapes } from '../embedded_model.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { bytes, memoryOf } from '../memory.js';
import { tokenizerConfig } from '../settings.js';
import { levels, over, where } from '../statistics.js';

const KINDS = ['bsq', 'lfq', 'lfq-table'] as const;
type Kind = (typeof KINDS)[number];

const NAMES: Readonly<Record<Kind, string>> = {
  bsq: 'BSQ, bit by bit',
  lfq: 'LFQ, fused here',
  'lfq-table': 'LFQ, all logits',
};
const BITS: Readonly<Record<Kind, readonly number[]>> = {
  bsq: [4, 8, 16, 32, 64],
  lfq: [4, 8, 10, 12, 14, 16],
  'lfq-table': [4, 8, 10, 12, 14, 16],
};
/** Positions whose entropies are taken together. */
const POSITIONS = 1024;
/** What "can be trained" means on the page. */
const LIMIT = 2 ** 30;
function features(device: Device, bits: number): Tensor {
  const values = Float32Array.from({ length: POSITIONS * bits }, (_, i) => Math.sin(i * 12.9898) / Math.sqrt(bits));
  return Tensor.from(values, [POSITIONS, bits], 'f32', device);
}

/** The codes of a table [2^d, d]: ±1. */
function table(device: Device, bits: number): Tensor {
  const codes = Float32Array.from({ length: bits * 2 ** bits }, (_, i) =>
    (Math.floor(i / bits) >> (i % bits)) & 1 ? 1 : -1,
  );
  return Tensor.from(codes, [2 ** bits, bits], 'f32', device);
}

/** Entropies of one scale and their gradient. */
function penalties(z: Tensor, kind: 'bsq' | 'lfq'): void {
  const tape = new Tape().watch(z);
  const { perSampleEntropy, codebookEntropy, commitment, meanProbability } = tape.run(() =>
    kind === 'bsq' ? bsqPenalties(z) : lfqPenalties(z, { inverseTemperature: 1 }),
  );
  const cotangent = Tensor.from([1], [], 'f32', z.device);
  const outputs = [perSampleEntropy, codebookEntropy, commitment];
  tape.backward(outputs.map((of) => ({ of, cotangent }))).dispose();
  for (const t of [...outputs, meanProbability, cotangent]) t.dispose();
}

/** The logits that a softmax over all codes starts from, and their gradient: the least that a table takes. */
function logits(z: Tensor, codes: Tensor): void {
  const tape = new Tape().watch(z);
  const all = tape.run(() => linear(z, codes));
  const cotangent = Tensor.empty(all.shape, 'f32', z.device);
  tape.backward([{ of: all, cotangent }]).dispose();
  for (const t of [all, cotangent]) t.dispose();
}

/** Most bytes in a whole training step of the tokenizer, counted on a device that allocates nothing. */
async function stepBytes(quantizer: QuantizerKind, bits: number, threads: number): Promise<number> {
  const device = Device.create('cpu', { threads, dry: true });
  const config = tokenizerConfig({ shapes: await embeddedShapes(bits), seed: 1, iterations: 1, quantizer });
  const trainer = await TokenizerTrainer.create(config, { device });
  try {
    const batch = await drawBatch(openDataset(trainer.source), { first: 0, count: config.batch_size });
    await trainer.step(batch, 0, { lr: 0, weightDecay: 0 });
    return device.stats().peakBytes;
  } finally {
    trainer.dispose();
    device.close();
  }
}

async function run(kind: Kind, bits: number, { device }: Context): Promise<Values> {
  const { threads } = device.stats();
  const use =
    kind === 'lfq-table'
      ? await memoryOf(
          { threads },
          (own) => ({ z: features(own, bits), codes: table(own, bits) }),
          ({ z, codes }) => logits(z, codes),
        )
      : await memoryOf(
          { threads },
          (own) => features(own, bits),
          (z) => penalties(z, kind),
        );
  const measured = { bytes: use.peakBytes, seconds: use.seconds };
  return kind === 'lfq-table' ? measured : { ...measured, step_bytes: await stepBytes(kind, bits, threads) };
}

/** The most bits within the limit, by the growth between the last two that were measured; undefined below two. */
function reach(own: readonly Result[]): number | undefined {
  const points = levels(own, 'bits').map((bits) => ({ bits, bytes: over(where(own, { bits }), 'bytes')!.mean }));
  const [before, last] = points.slice(-2);
  if (!before || !last) return undefined;
  const perBit = (last.bytes / before.bytes) ** (1 / (last.bits - before.bits));
  return last.bits + Math.floor(Math.log(LIMIT / last.bytes) / Math.log(perBit));
}

function findings(results: readonly Result[]): Finding[] {
  const own = (kind: Kind) => where(results, { kind });
  const at = (kind: Kind, bits: number) => over(where(own(kind), { bits }), 'bytes')?.mean;
  const [few, many] = [at('bsq', 16), at('bsq', 64)];
  const [small, large] = [at('lfq-table', 14), at('lfq-table', 16)];
  const [fused14, fused16] = [at('lfq', 14), at('lfq', 16)];
  const [step16, step64] = [16, 64].map((bits) => over(where(own('bsq'), { bits }), 'step_bytes')?.mean);
  if (!step16 || !step64) return [];
  if (!few || !many || !small || !large || !fused14 || !fused16) return [];
  const linearly = many / few <= 4.2;
  const exponentially = large / small >= 3.5;
  const [table, fused] = [reach(own('lfq-table')), reach(own('lfq'))];
  return [
    {
      verdict: linearly && exponentially ? 'holds' : 'does not hold in small',
      text: `For ${POSITIONS} positions the entropies of BSQ with their gradient take ${bytes(few)} at 2^16 and ${bytes(many)} at 2^64, ${(many / few).toFixed(2)} times as much for four times the bits. A logit for each code takes ${bytes(small)} at 2^14 and ${bytes(large)} at 2^16, ${(large / small).toFixed(2)} times as much for two bits more. A whole training step with BSQ takes ${bytes(step16)} at 2^16 and ${bytes(step64)} at 2^64.`,
    },
    {
      verdict: exponentially && table! < 24 ? 'holds' : 'does not hold in small',
      text: `With ${bytes(LIMIT)} for this alone BSQ trains 2^64, the largest vocabulary of the paper; a logit for each code ends at 2^${table} (by the measured growth). The fused kernel of this package keeps no logits, ${bytes(fused14)} at 2^14 and ${bytes(fused16)} at 2^16, and would end at 2^${fused}; what ends it sooner is time, ${over(where(own('lfq'), { bits: 16 }), 'seconds')!.mean.toFixed(2)} s at 2^16 against ${over(where(own('bsq'), { bits: 16 }), 'seconds')!.mean.toFixed(4)} s of BSQ, and it is refused above 2^16.`,
    },
  ];
}

export const quantizerMemory: Experiment = {
  name: 'quantizer-memory',
  version: 2,
  title: 'Memory of the quantiser',
  claim:
    'The entropy penalty of LFQ needs memory that grows with the vocabulary, O(2^d) (37.6 GB for the whole training at 2^16, 53.7 GB at 2^18, out of memory beyond), that of BSQ O(d) (32.4 GB at every size).',
  method: `Most bytes that the allocator held while the entropies of ${POSITIONS} positions and their gradient were computed, beyond the positions themselves. "All logits" is the product of the positions with a table of codes and its gradient, the least that a softmax over all codes keeps. A whole step is one of the tokenizer’s training with 16 pictures of 32 pixels, counted by the allocator without being computed. Deterministic, so there is one seed.`,
  cells(short) {
    return KINDS.flatMap((kind) =>
      (short ? BITS[kind].slice(0, 1) : BITS[kind]).map((bits) => ({
        config: { kind, bits, positions: POSITIONS },
        seconds: 1,
        round: 0,
        run: (context: Context) => run(kind, bits, context),
      })),
    );
  },
  read(results) {
    const all = levels(results, 'bits');
    const rows = all.map((bits) => [
      `2^${bits}`,
      ...KINDS.flatMap((kind) => {
        const own = where(results, { kind, bits });
        const [memory, seconds] = [over(own, 'bytes'), over(own, 'seconds')];
        return [memory ? bytes(memory.mean) : '–', seconds ? seconds.mean.toFixed(4) : '–'];
      }),
      ...(['bsq', 'lfq'] as const).map((kind) => {
        const step = over(where(results, { kind, bits }), 'step_bytes');
        return step ? bytes(step.mean) : '–';
      }),
    ]);
    return {
      tables:
        rows.length === 0
          ? []
          : [
              {
                head: [
                  'vocabulary',
                  ...KINDS.flatMap((kind) => [NAMES[kind], 'seconds']),
                  'whole step, BSQ',
                  'whole step, LFQ',
                ],
                rows,
              },
            ],
      plots: [
        {
          name: 'quantizer-memory',
          title: 'Memory of the entropies and their gradient',
          x: 'bits of a position, d',
          y: 'bytes',
          logY: true,
          logX: true,
          ticks: [4, 8, 16, 32, 64].map((d) => [d, `2^${d}`]),
          series: KINDS.map((kind) => ({
            name: NAMES[kind],
            points: levels(where(results, { kind }), 'bits').map((bits) => ({
              x: bits,
              y: over(where(results, { kind, bits }), 'bytes')!,
            })),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
