/** Guidance and temperature of the embedded model. */
import { evaluateShapes } from '../../../lib/eval/evaluate_shapes.js';
import { SHAPES_CATEGORIES } from '../../../lib/eval/shapes/index.js';
import { InfinityPipeline } from '../../../lib/pipeline/index.js';
import { EMBEDDED_MODEL, embeddedWeights } from '../embedded_model.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { levels, over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import { scopeOf } from './shared.js';

/** The setting that both sweeps pass through. */
const GUIDANCE = 3;
const TAU = 1;
const SETTINGS = [
  ...[1, 2, 3, 4, 6].map((guidance) => ({ guidance, tau: TAU })),
  ...[0.01, 0.5].map((tau) => ({ guidance: GUIDANCE, tau })),
];

interface CellConfig {
  /** Another model is measured anew. */
  readonly weights: string;
  readonly guidance: number;
  readonly tau: number;
  readonly seed: number;
  readonly prompts: number;
}

async function run({ guidance, tau, seed, prompts }: CellConfig, { device, signal }: Context): Promise<Values> {
  const pipe = await InfinityPipeline.fromPretrained(EMBEDDED_MODEL, { threads: device.stats().threads });
  try {
    const options = { promptsPerCategory: prompts, picturesPerPrompt: 1, seed, guidance, tau, signal };
    return { ...(await evaluateShapes(pipe, options)).summary };
  } finally {
    await pipe.dispose();
  }
}

function findings(results: readonly Result[]): Finding[] {
  const at = (guidance: number, tau: number) => where(results, { guidance, tau });
  const found: Finding[] = [];
  const guided = paired(at(GUIDANCE, TAU), at(1, TAU), 'overall');
  if (guided)
    found.push({
      verdict: verdictOf(guided, 1),
      text: `Guidance ${GUIDANCE} on the logits changes the overall score by ${signed(guided)}, from ${spread(over(at(1, TAU), 'overall'))} without guidance.`,
    });
  const drawn = paired(at(GUIDANCE, TAU), at(GUIDANCE, 0.01), 'overall');
  const sharper = paired(at(GUIDANCE, 0.5), at(GUIDANCE, 0.01), 'overall');
  if (drawn && sharper)
    found.push({
      verdict: verdictOf(drawn, 1),
      text: `At guidance ${GUIDANCE}, drawing with τ 1 instead of nearly greedily (τ 0.01) changes it by ${signed(drawn)}, and with τ 0.5 by ${signed(sharper)}, from ${spread(over(at(GUIDANCE, 0.01), 'overall'))}.`,
    });
  return found;
}

export const sampling: Experiment = {
  name: 'sampling',
  version: 2,
  title: 'Guidance and temperature',
  claim:
    'Guidance on the logits and random draws are both needed: greedy decoding (τ 0.01, no guidance) has FID 9.97 and ImageReward 0.397, τ 1 without guidance 4.84 and 0.706, guidance 3 on logits 2.91 and 0.952, guidance 4 2.82 and 0.962.',
  method:
    'The embedded model, ShapesEval with ten prompts a category and one picture a prompt (60 pictures), three seeds of prompts and draws; top-p 0.97 throughout.',
  cells(short) {
    const { seeds } = scopeOf(short);
    const prompts = short ? 1 : 10;
    const weights = embeddedWeights();
    return seeds.flatMap((seed, round) =>
      SETTINGS.slice(0, short ? 1 : SETTINGS.length).map(({ guidance, tau }) => {
        const config = { weights, guidance, tau, seed, prompts };
        return { config, seconds: short ? 2 : 8, round, run: (context: Context) => run(config, context) };
      }),
    );
  },
  read(results) {
    const names = ['overall', ...SHAPES_CATEGORIES];
    const rows = SETTINGS.flatMap(({ guidance, tau }) => {
      const own = where(results, { guidance, tau });
      if (own.length === 0) return [];
      return [
        [
          `guidance ${guidance}, τ ${tau}`,
          ...names.map((name) => over(own, name)!.mean.toFixed(3)),
          String(own.length),
        ],
      ];
    });
    const series = ['overall', 'colors', 'two_object'].map((name) => ({
      name,
      points: levels(where(results, { tau: TAU }), 'guidance').map((guidance) => ({
        x: guidance,
        y: over(where(results, { guidance, tau: TAU }), name)!,
      })),
    }));
    return {
      tables: rows.length === 0 ? [] : [{ head: ['setting', ...names, 'seeds'], rows }],
      plots: [
        {
          name: 'guidance',
          title: `ShapesEval of the embedded model, τ ${TAU}`,
          x: 'guidance',
          y: 'share of right pictures',
          series,
        },
        {
          name: 'tau',
          title: `ShapesEval of the embedded model, guidance ${GUIDANCE}`,
          x: 'τ',
          y: 'share of right pictures',
          series: ['overall', 'colors', 'two_object'].map((name) => ({
            name,
            points: levels(where(results, { guidance: GUIDANCE }), 'tau').map((tau) => ({
              x: tau,
              y: over(where(results, { guidance: GUIDANCE, tau }), name)!,
            })),
          })),
        },
      ],
      findings: findings(results),
    };
  },
};
