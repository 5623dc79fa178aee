/**
 * The tokenizer's own schedules, used when it runs without the transformer (its training, reconstruction).
 * Sources: Infinity, infinity/models/bsq_vae/dynamic_resolution.py and multiscale_bsq.py (get_latent2scale_schedule);
 * the modes "half" and "dense_f8" come from BitVAE's copy of the latter.
 */
import { InfinityError, invalidArgument } from '../errors.js';
import {
  finestGrid,
  parseGrids,
  type Scale,
  type ScaleSchedule,
  TEMPLATE_RATIOS,
  templateSchedule,
} from './schedule.js';

export const SCHEDULE_MODES = ['dynamic', 'dense', 'dense_f8', 'original', 'half', 'same1', 'same2', 'same3'] as const;
export type ScheduleMode = (typeof SCHEDULE_MODES)[number];

const DENSE_16 = '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16';
const DENSE_32 = `${DENSE_16} 20 24 28 32`;
const DENSE_64 = `${DENSE_32} 40 48 56 64`;
const ORIGINAL_16 = '1 2 3 4 5 6 8 10 13 16';

/** Finest latent grid "HxW" -> grids. */
const FIXED: Readonly<Partial<Record<ScheduleMode, Readonly<Record<string, string>>>>> = {
  dense: { '16x16': DENSE_16, '32x32': DENSE_32, '64x64': DENSE_64 },
  dense_f8: { '32x32': DENSE_32, '64x64': DENSE_64, '128x128': `${DENSE_64} 80 96 112 128` },
  original: {
    '16x16': ORIGINAL_16,
    '32x32': '1 2 3 4 6 9 13 18 24 32',
    '64x64': '1 2 3 4 5 7 9 12 16 21 27 36 48 64',
    '36x64': '1 2 3 4 6 9x12 13x16 18x24 24x32 32x48 36x64',
  },
  half: { '32x32': ORIGINAL_16, '64x64': '1 2 4 6 8 12 16' },
};

/** The published table knows prefixes of 7, 10 and 13 scales; the 12-scale ones (0.60M) must be passed explicitly. */
function buildDynamic(): ReadonlyMap<string, ScaleSchedule> {
  const table = new Map<string, ScaleSchedule>();
  for (const template of TEMPLATE_RATIOS) {
    for (const budget of ['0.06M', '0.25M', '1M'] as const) {
      const schedule = templateSchedule(template, budget);
      table.set(finestGrid(schedule).join('x'), schedule);
    }
  }
  return table;
}

/** Mode "dynamic": finest latent grid "HxW" -> schedule, in table order. */
export const DYNAMIC_SCHEDULES: ReadonlyMap<string, ScaleSchedule> = buildDynamic();

/**
 * The schedule of a named mode for a latent of `h` x `w`.
 *
 * @throws InfinityError INVALID_ARGUMENT for an unknown mode, UNSUPPORTED_SIZE listing the grids a mode knows
 */
export function tokenizerSchedule(mode: ScheduleMode, h: number, w: number): ScaleSchedule {
  if (!SCHEDULE_MODES.includes(mode)) invalidArgument('schedule mode', `one of ${SCHEDULE_MODES.join(', ')}`, mode);
  if (mode.startsWith('same')) return Array.from({ length: Number(mode.slice(4)) }, (): Scale => [1, h, w]);
  const key = `${h}x${w}`;
  const table = FIXED[mode];
  const grids = table?.[key];
  const found = table ? grids && parseGrids(grids) : DYNAMIC_SCHEDULES.get(key);
  if (found) return found;
  const known = table ? Object.keys(table) : [...DYNAMIC_SCHEDULES.keys()];
  throw new InfinityError(
    'UNSUPPORTED_SIZE',
    `Expected a latent grid of schedule mode "${mode}" but received ${key}.`,
    {
      value: [h, w],
      cure: `Use one of ${known.join(', ')}, or pass an explicit schedule.`,
      fields: { sizes: known },
    },
  );
}
