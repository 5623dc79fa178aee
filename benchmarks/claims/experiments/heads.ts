/** The infinite-vocabulary classifier against the conventional one: the same model, the same steps, few bits. */
import { evaluateShapes } from '../../../lib/eval/evaluate_shapes.js';
import { InfinityPipeline } from '../../../lib/pipeline/index.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { distances, teacherForced } from '../measures.js';
import { levels, over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import type { Made } from '../workshop.js';
import { scopeOf, withTrained } from './shared.js';

const HEADS = ['bitwise', 'softmax'] as const;
const BITS = [8, 12] as const;

interface CellConfig {
  readonly head: (typeof HEADS)[number];
  readonly bits: number;
  readonly seed: number;
  readonly steps: number;
  readonly tokenizerSteps: number;
  readonly pictures: number;
  /** Prompts of ShapesEval a category. */
  readonly prompts: number;
}

/** ShapesEval of the model, and of its tokenizer's reconstructions. */
async function shapes(
  { directory }: Made,
  { seed, prompts }: CellConfig,
  { device, signal }: Context,
): Promise<Values> {
  const pipe = await InfinityPipeline.fromPretrained(directory, { threads: device.stats().threads });
  try {
    // τ means another thing to each head; at 1 both draw from their own probabilities.
    const options = { promptsPerCategory: prompts, picturesPerPrompt: 1, seed, guidance: 3, tau: 1, signal };
    const { summary } = await evaluateShapes(pipe, options);
    const ceiling = await evaluateShapes(pipe, { ...options, ceiling: true });
    return { overall: summary.overall, colors: summary.colors, ceiling: ceiling.summary.overall };
  } finally {
    await pipe.dispose();
  }
}

async function run(config: CellConfig, context: Context): Promise<Values> {
  const { head, bits, seed, steps, tokenizerSteps, pictures } = config;
  const variation = { head, bits, seed, iterations: steps, tokenizerSteps };
  return withTrained(context, variation, async (model, made) => {
    const { loss, accuracy } = await teacherForced(model, pictures);
    const { drawn } = await distances(model, pictures);
    const parameters = model.transformer.parameterCount();
    return { loss, accuracy, distance: drawn, parameters, ...(await shapes(made, config, context)) };
  });
}

function findings(results: readonly Result[]): Finding[] {
  return BITS.flatMap((bits): Finding[] => {
    const [bitwise, softmax] = HEADS.map((head) => where(results, { head, bits })) as [Result[], Result[]];
    const [loss, distance] = [paired(bitwise, softmax, 'loss'), paired(bitwise, softmax, 'distance')];
    const accuracy = paired(bitwise, softmax, 'accuracy');
    if (!loss || !distance || !accuracy) return [];
    const ceiling = over([...bitwise, ...softmax], 'ceiling');
    return [
      {
        verdict: verdictOf(distance, -1),
        text: `At 2^${bits} the distance of freely drawn pictures with the bitwise classifier differs by ${signed(distance, 4)} from that with the conventional one, ${spread(over(softmax, 'distance'), 4)}. ShapesEval: ${spread(over(bitwise, 'overall'))} bitwise, ${spread(over(softmax, 'overall'))} conventional, under the tokenizer’s ceiling of ${spread(ceiling)}; chance is about 0.06.`,
      },
      {
        verdict: verdictOf(loss, -1),
        text: `At 2^${bits} the held-out loss differs by ${signed(loss)} nats a token (conventional ${spread(over(softmax, 'loss'))}) and bit accuracy by ${signed(accuracy, 4)} (conventional ${spread(over(softmax, 'accuracy'), 4)}).`,
      },
    ];
  });
}

export const heads: Experiment = {
  name: 'heads',
  version: 1,
  title: 'Bitwise and conventional classifier',
  claim:
    'With the same model and vocabulary (2^16) the bitwise classifier generates better than the conventional one: FID 3.83 against 4.49, ImageReward 0.91 against 0.79.',
  method:
    'Transformers of width 96 and four blocks on pictures of 32 pixels with tokenizers of 8 and 12 bits, which both heads share, and the same 250 steps of 32 pictures, self-correction of strength 0.2 for both. Loss in nats a token and bit accuracy: teacher forcing on 128 held-out pictures; distance as in the experiment on self-correction; ShapesEval with ten prompts a category, guidance 3, τ 1.',
  cells(short) {
    const { seeds, steps, tokenizerSteps, pictures } = scopeOf(short);
    const prompts = short ? 1 : 10;
    return seeds.flatMap((seed, round) =>
      (short ? [8] : BITS).flatMap((bits) =>
        HEADS.map((head) => {
          const config = { head, bits, seed, steps, tokenizerSteps, pictures, prompts };
          const seconds = short ? 4 : head === 'softmax' && bits > 8 ? 40 : 25;
          return { config, seconds, round, run: (context: Context) => run(config, context) };
        }),
      ),
    );
  },
  read(results) {
    const rows = levels(results, 'bits').flatMap((bits) =>
      HEADS.flatMap((head) => {
        const own = where(results, { head, bits });
        if (own.length === 0) return [];
        const cell = (value: string, count = 3): string => spread(over(own, value), count);
        return [
          [
            `2^${bits}`,
            head,
            own[0]!.values.parameters!.toLocaleString('en'),
            cell('loss'),
            cell('accuracy', 4),
            cell('distance', 4),
            cell('overall'),
            cell('ceiling'),
          ],
        ];
      }),
    );
    const head = [
      'vocabulary',
      'classifier',
      'parameters',
      'loss, nats a token',
      'bit accuracy',
      'distance',
      'ShapesEval',
      'ceiling',
    ];
    return {
      tables: rows.length === 0 ? [] : [{ head, rows }],
      plots: [
        {
          name: 'heads',
          title: 'Held-out loss of both classifiers',
          x: 'vocabulary',
          y: 'loss, nats a token',
          ticks: BITS.map((d) => [d, `2^${d}`]),
          series: HEADS.map((name) => ({
            name,
            points: levels(where(results, { head: name }), 'bits').map((bits) => ({
              x: bits,
              y: over(where(results, { head: name, bits }), 'loss')!,
            })),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
