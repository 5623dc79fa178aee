/** Width and depth of the transformer at the same number of steps. */
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { teacherForced } from '../measures.js';
import { over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import { scopeOf, withTrained } from './shared.js';

/** [width, depth], smallest first; the third is the model of the other experiments. */
const SIZES = [
  [32, 2],
  [64, 3],
  [96, 4],
  [160, 5],
] as const;

interface CellConfig {
  readonly width: number;
  readonly depth: number;
  readonly seed: number;
  readonly steps: number;
  readonly tokenizerSteps: number;
  readonly pictures: number;
}

async function run({ pictures, steps, ...own }: CellConfig, context: Context): Promise<Values> {
  return withTrained(context, { ...own, iterations: steps }, async (model) => {
    const { loss, accuracy } = await teacherForced(model, pictures);
    return { loss, accuracy, parameters: model.transformer.parameterCount() };
  });
}

const sizes = (results: readonly Result[]) =>
  SIZES.flatMap(([width, depth]) => {
    const own = where(results, { width, depth });
    return own.length > 0 ? [{ width, depth, own, parameters: own[0]!.values.parameters! }] : [];
  });

function findings(results: readonly Result[]): Finding[] {
  const [smallest, largest] = [sizes(results)[0], sizes(results).at(-1)];
  const loss = smallest && largest && paired(largest.own, smallest.own, 'loss');
  const accuracy = smallest && largest && paired(largest.own, smallest.own, 'accuracy');
  if (!loss || !accuracy || smallest.parameters === largest.parameters) return [];
  const falling = sizes(results).every(
    ({ own }, i, all) => i === 0 || over(own, 'loss')!.mean < over(all[i - 1]!.own, 'loss')!.mean,
  );
  return [
    {
      verdict: falling ? verdictOf(loss, -1) : 'open',
      text: `From ${(smallest.parameters / 1e6).toFixed(2)} to ${(largest.parameters / 1e6).toFixed(2)} million parameters the loss changes by ${signed(loss)} nats a token and bit accuracy by ${signed(accuracy, 4)}; the loss ${falling ? 'falls' : 'does not fall'} from each size to the next.`,
    },
  ];
}

export const scaling: Experiment = {
  name: 'scaling',
  version: 1,
  title: 'Larger transformers',
  claim:
    'Validation loss and bit accuracy get better steadily with the size of the model: 0.471 and 75.9 % at 125M, 0.419 and 79.0 % at 4.7B parameters after the same number of steps.',
  method:
    'Four sizes of transformer on pictures of 32 pixels (30 tokens of 16 bits), the same 250 steps of 32 pictures and the same learning rate for all, three seeds; teacher forcing on 128 held-out pictures.',
  cells(short) {
    const { seeds, steps, tokenizerSteps, pictures } = scopeOf(short);
    const expected = [10, 14, 3, 55];
    return seeds.flatMap((seed, round) =>
      SIZES.slice(0, short ? 1 : SIZES.length).map(([width, depth], i) => {
        const config = { width, depth, seed, steps, tokenizerSteps, pictures };
        return { config, seconds: short ? 3 : expected[i]!, round, run: (context: Context) => run(config, context) };
      }),
    );
  },
  read(results) {
    const rows = sizes(results).map(({ width, depth, own, parameters }) => [
      `${width} × ${depth}`,
      (parameters / 1e6).toFixed(2),
      spread(over(own, 'loss')),
      spread(over(own, 'accuracy'), 4),
    ]);
    const points = sizes(results).map(({ own, parameters }) => ({ x: parameters / 1e6, y: over(own, 'loss')! }));
    return {
      tables:
        rows.length === 0
          ? []
          : [{ head: ['width × blocks', 'parameters, million', 'loss, nats a token', 'bit accuracy'], rows }],
      plots: [
        {
          name: 'scaling',
          title: 'Held-out loss by size of the transformer',
          x: 'parameters, million',
          y: 'loss, nats a token',
          logX: true,
          ticks: points.map(({ x }) => [x, x.toFixed(2)]),
          series: [{ name: '250 steps', points }],
        },
      ],
      findings: findings(results),
    };
  },
};
