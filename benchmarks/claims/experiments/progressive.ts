/** Pictures of 64 pixels after pictures of 32, or alone, at equal compute. */
import { drawBatch } from '../../../lib/data/batch.js';
import { openDataset } from '../../../lib/data/dataset.js';
import { Checkpoint } from '../../../lib/io/checkpoint.js';
import { countFlops } from '../../../lib/ops/flops.js';
import { TransformerTrainer } from '../../../lib/training/index.js';
import { embeddedTokenizer } from '../embedded_model.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { distances, teacherForced } from '../measures.js';
import { GRIDS, type Side, type TransformerVariation, transformerConfig } from '../settings.js';
import { over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import { openTrained } from '../trained_model.js';
import type { Made } from '../workshop.js';
import { scopeOf } from './shared.js';

interface CellConfig {
  readonly training: 'direct' | 'progressive';
  readonly seed: number;
  /** Steps of 64 pixels that the whole compute is worth. */
  readonly steps: number;
  readonly pictures: number;
}

const BATCH = 16;

/** Floating-point operations of one step: products and convolutions, the frozen tokenizer's among them. */
async function stepFlops({ device }: Context, variation: TransformerVariation, tokenizer: Made): Promise<number> {
  const config = transformerConfig(variation);
  const trainer = await TransformerTrainer.create(config, {
    device,
    tokenizer: await Checkpoint.open(tokenizer.directory),
  });
  try {
    const batch = await drawBatch(openDataset(trainer.source), { first: 0, count: config.batch_size });
    return await countFlops(device, () => trainer.step(batch, 0, { lr: 0, weightDecay: 0 }));
  } finally {
    trainer.dispose();
  }
}

async function run({ training, seed, steps, pictures }: CellConfig, context: Context): Promise<Values> {
  const { workshop, device } = context;
  const tokenizer = (side: Side) => embeddedTokenizer(workshop, GRIDS[side]);
  const variation = (side: Side, iterations: number) => ({ seed, side, iterations, batch: BATCH });
  const train = async (side: Side, iterations: number, init?: Made) =>
    workshop.transformer(transformerConfig(variation(side, iterations)), await tokenizer(side), init);
  const [small, large] = [
    await stepFlops(context, variation(32, 1), await tokenizer(32)),
    await stepFlops(context, variation(64, 1), await tokenizer(64)),
  ];
  const [early, late] =
    training === 'direct' ? [0, steps] : [Math.round((steps / 2) * (large / small)), Math.ceil(steps / 2)];
  const made = await train(64, late, early > 0 ? await train(32, early) : undefined);
  const model = await openTrained(made, device);
  try {
    const { loss, accuracy, losses } = await teacherForced(model, pictures);
    const { drawn } = await distances(model, pictures);
    const gflop = (early * small + late * large) / 1e9;
    return { loss, accuracy, loss_last: losses.at(-1)!, distance: drawn, steps_32: early, steps_64: late, gflop };
  } finally {
    model.dispose();
  }
}

const KINDS = ['direct', 'progressive'] as const;

function findings(results: readonly Result[]): Finding[] {
  const [direct, progressive] = KINDS.map((training) => where(results, { training })) as [Result[], Result[]];
  const loss = paired(progressive, direct, 'loss');
  const distance = paired(progressive, direct, 'distance');
  if (!loss || !distance) return [];
  return [
    {
      verdict: verdictOf(loss, -1),
      text: `Half of the compute on 32 pixels first changes the held-out loss at 64 pixels by ${signed(loss)} nats a token, from ${spread(over(direct, 'loss'))} of direct training, and the distance of freely drawn pictures by ${signed(distance, 4)}, from ${spread(over(direct, 'distance'), 4)}.`,
    },
  ];
}

export const progressive: Experiment = {
  name: 'progressive',
  version: 1,
  title: 'Progressive training',
  claim:
    'Training starts at a low resolution and goes on at higher ones (256, 512, 1024), because early steps are cheaper there.',
  method:
    'The same transformer (width 96, four blocks) for pictures of 64 pixels (130 tokens of 32 bits of the embedded tokenizer): 160 steps of 16 pictures directly, or as many operations, counted from the commands, half of them at 32 pixels (30 tokens) and half at 64. Three seeds; teacher forcing on 96 held-out pictures of 64 pixels.',
  cells(short) {
    const { seeds } = scopeOf(short);
    const [steps, pictures] = short ? [2, 4] : [160, 96];
    return seeds.flatMap((seed, round) =>
      KINDS.slice(short ? 1 : 0).map((training) => {
        const config = { training, seed, steps, pictures };
        return { config, seconds: short ? 6 : 55, round, run: (context: Context) => run(config, context) };
      }),
    );
  },
  read(results) {
    const rows = KINDS.flatMap((training) => {
      const own = where(results, { training });
      const [first] = own;
      if (!first) return [];
      const cell = (value: string, count = 3): string => spread(over(own, value), count);
      return [
        [
          training,
          `${first.values.steps_32} + ${first.values.steps_64}`,
          first.values.gflop!.toFixed(0),
          cell('loss'),
          cell('loss_last'),
          cell('accuracy', 4),
          cell('distance', 4),
        ],
      ];
    });
    const head = [
      'training',
      'steps at 32 + 64',
      'GFLOP',
      'loss, nats a token',
      'loss, 8 × 8',
      'bit accuracy',
      'distance',
    ];
    return {
      tables: rows.length === 0 ? [] : [{ head, rows }],
      plots: [
        {
          name: 'progressive',
          title: 'Held-out loss at 64 pixels at equal compute',
          x: 'training',
          y: 'loss, nats a token',
          ticks: KINDS.map((k, i) => [i, k]),
          series: [...new Set(results.map((r) => Number(r.config.seed)))].sort().map((seed) => ({
            name: `seed ${seed}`,
            points: KINDS.flatMap((training, i) => {
              const y = over(where(results, { training, seed }), 'loss');
              return y ? [{ x: i, y }] : [];
            }),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
