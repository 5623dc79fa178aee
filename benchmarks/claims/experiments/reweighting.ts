/** Tokens that weigh by the square root of their scale's area, or alike. */
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { completed, distances, teacherForced } from '../measures.js';
import { over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import { scopeOf, withTrained } from './shared.js';

const SCALES = [0, 1, 2, 3] as const;

interface CellConfig {
  readonly reweight: boolean;
  readonly seed: number;
  readonly steps: number;
  readonly tokenizerSteps: number;
  readonly pictures: number;
}

async function run({ pictures, steps, ...own }: CellConfig, context: Context): Promise<Values> {
  return withTrained(context, { ...own, iterations: steps }, async (model) => {
    const { loss, accuracy, losses } = await teacherForced(model, pictures);
    const { drawn } = await completed(model, pictures, { scales: 1, share: 0 });
    const { drawn: distance } = await distances(model, pictures);
    const scales = Object.fromEntries(losses.map((l, k) => [`loss_${k}`, l]));
    return { loss, accuracy, ...scales, drawn, distance };
  });
}

function findings(results: readonly Result[]): Finding[] {
  const [on, off] = [where(results, { reweight: true }), where(results, { reweight: false })];
  const loss = paired(on, off, 'loss_1');
  const last = paired(on, off, 'loss_3');
  const distance = paired(on, off, 'distance');
  if (!loss || !last || !distance) return [];
  return [
    {
      verdict: verdictOf(loss, -1),
      text: `Re-weighting changes the loss of the second scale by ${signed(loss)} nats a token (from ${spread(over(off, 'loss_1'))}) and that of the last by ${signed(last)} (from ${spread(over(off, 'loss_3'))}).`,
    },
    {
      verdict: verdictOf(distance, -1),
      text: `It changes the distance of freely drawn pictures by ${signed(distance, 4)}, from ${spread(over(off, 'distance'), 4)}.`,
    },
  ];
}

export const reweighting: Experiment = {
  name: 'reweighting',
  version: 1,
  title: 'Scale-wise re-weighting of the loss',
  claim:
    'The last scales hold most of the tokens; weighing each by the inverse square root of its scale’s area keeps training from neglecting the first scales, which decide what a picture shows.',
  method:
    'The models of the experiment on self-correction at strength 0.2, with and without the weights. Losses are plain means over the tokens of a scale, teacher forced on 128 held-out pictures; distance as there; PSNR of pictures drawn greedily from the first scale of held-out ones.',
  cells(short) {
    const { seeds, steps, tokenizerSteps, pictures } = scopeOf(short);
    return seeds.flatMap((seed, round) =>
      (short ? [false] : [true, false]).map((reweight) => {
        const config = { reweight, seed, steps, tokenizerSteps, pictures };
        return {
          config,
          seconds: short ? 3 : reweight ? 4 : 24,
          round,
          run: (context: Context) => run(config, context),
        };
      }),
    );
  },
  read(results) {
    const settings = [
      ['by area', true],
      ['alike', false],
    ] as const;
    const rows = settings.flatMap(([name, reweight]) => {
      const own = where(results, { reweight });
      if (own.length === 0) return [];
      const losses = SCALES.map((k) => spread(over(own, `loss_${k}`), 2));
      return [
        [name, ...losses, spread(over(own, 'loss')), spread(over(own, 'drawn'), 2), spread(over(own, 'distance'), 4)],
      ];
    });
    const head = [
      'weights',
      ...SCALES.map((k) => `loss, ${k + 1} × ${k + 1}`),
      'loss, all tokens',
      'drawn, dB',
      'distance',
    ];
    return {
      tables: rows.length === 0 ? [] : [{ head, rows }],
      plots: [
        {
          name: 'reweighting',
          title: 'Loss by scale with and without re-weighting',
          x: 'scale',
          y: 'loss, nats a token',
          ticks: SCALES.map((k) => [k, `${k + 1} × ${k + 1}`]),
          series: settings.map(([name, reweight]) => ({
            name,
            points: SCALES.flatMap((k) => {
              const y = over(where(results, { reweight }), `loss_${k}`);
              return y ? [{ x: k, y }] : [];
            }),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
