/** Reconstruction against the bits of a latent position. */

import { parseGrids, tokenCount } from '../../../lib/tokenizer/schedule.js';
import type { Context, Experiment, Finding, Result, Values } from '../experiment.js';
import { reconstructionPsnr } from '../measures.js';
import { GRIDS } from '../settings.js';
import { levels, over, paired, signed, spread, verdictOf, where } from '../statistics.js';
import { openTokenizer } from '../trained_model.js';
import { scopeOf, type TokenizerChoice, trainedTokenizer } from './shared.js';

const CELLS = [
  ...[8, 12, 16, 32, 64].map((bits) => ({ quantizer: 'bsq', bits }) as const),
  ...[8, 12].map((bits) => ({ quantizer: 'lfq', bits }) as const),
];
const NAMES = { bsq: 'BSQ', lfq: 'LFQ' } as const;
const POSITIONS = tokenCount(parseGrids(GRIDS[32]));

async function run(config: TokenizerChoice & { readonly pictures: number }, context: Context): Promise<Values> {
  const { pictures, ...choice } = config;
  const tokenizer = await openTokenizer(await trainedTokenizer(context, choice), context.device);
  try {
    return { psnr: await reconstructionPsnr(tokenizer, pictures) };
  } finally {
    tokenizer.dispose();
  }
}

function findings(results: readonly Result[]): Finding[] {
  const at = (bits: number, quantizer = 'bsq') => where(results, { quantizer, bits });
  const found: Finding[] = [];
  const whole = paired(at(64), at(8), 'psnr');
  if (whole)
    found.push({
      verdict: verdictOf(whole, 1),
      text: `From 2^8 to 2^64 the PSNR of reconstructions changes by ${signed(whole, 2)} dB, from ${spread(over(at(8), 'psnr'), 2)} dB.`,
    });
  const last = paired(at(64), at(32), 'psnr');
  if (last)
    found.push({
      verdict: verdictOf(last, 1),
      text: `The last step, from 2^32 to 2^64, changes it by ${signed(last, 2)} dB.`,
    });
  for (const bits of [8, 12]) {
    const lfq = paired(at(bits), at(bits, 'lfq'), 'psnr');
    if (lfq)
      found.push({
        verdict: verdictOf(lfq, 1),
        text: `BSQ against LFQ at 2^${bits}: ${signed(lfq, 2)} dB.`,
      });
  }
  return found;
}

export const vocabulary: Experiment = {
  name: 'vocabulary',
  version: 1,
  title: 'Vocabularies from 2^8 to 2^64',
  claim:
    'Reconstruction gets better with every enlargement of the vocabulary up to 2^64 and passes a continuous tokenizer from 2^24 on; BSQ is as good as LFQ where both can be trained.',
  method:
    'The embedded tokenizer with the layers beside the quantiser drawn anew for every number of bits, trained on for 300 steps of 16 pictures of 32 pixels (four scales of 1 to 4 positions a side), three seeds; PSNR of the reconstructions of 128 held-out pictures.',
  cells(short) {
    const { seeds, tokenizerSteps: iterations, pictures } = scopeOf(short);
    return seeds.flatMap((seed, round) =>
      (short ? CELLS.filter(({ bits }) => bits === 8) : CELLS).map(({ quantizer, bits }) => {
        const choice = { bits, seed, iterations, ...(quantizer === 'lfq' ? { quantizer } : {}) };
        const config = { quantizer, bits, seed, iterations, pictures };
        const seconds = short ? 2 : quantizer === 'lfq' && bits > 8 ? 40 : 20;
        return { config, seconds, round, run: (context: Context) => run({ ...choice, pictures }, context) };
      }),
    );
  },
  read(results) {
    const kinds = (['bsq', 'lfq'] as const).filter((quantizer) => where(results, { quantizer }).length > 0);
    const rows = kinds.flatMap((quantizer) => {
      const own = where(results, { quantizer });
      return levels(own, 'bits').map((bits) => [
        NAMES[quantizer],
        `2^${bits}`,
        String(bits * POSITIONS),
        spread(over(where(own, { bits }), 'psnr'), 2),
      ]);
    });
    const series = kinds.map((quantizer) => {
      const own = where(results, { quantizer });
      return {
        name: NAMES[quantizer],
        points: levels(own, 'bits').map((bits) => ({ x: bits, y: over(where(own, { bits }), 'psnr')! })),
      };
    });
    return {
      tables: rows.length === 0 ? [] : [{ head: ['quantiser', 'vocabulary', 'bits a picture', 'PSNR, dB'], rows }],
      plots: [
        {
          name: 'vocabulary',
          title: 'Reconstruction by size of the vocabulary',
          x: 'bits of a position, d',
          y: 'PSNR, dB',
          logX: true,
          ticks: [8, 12, 16, 32, 64].map((d) => [d, `2^${d}`]),
          series,
        },
      ],
      findings: findings(results),
    };
  },
};
