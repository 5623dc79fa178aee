/** All experiments, in the order of the page. */
import type { Experiment } from '../experiment.js';
import { classifierMemory } from './classifier_memory.js';
import { heads } from './heads.js';
import { progressive } from './progressive.js';
import { quantizerMemory } from './quantizer_memory.js';
import { reweighting } from './reweighting.js';
import { sampling } from './sampling.js';
import { scaling } from './scaling.js';
import { selfCorrection } from './self_correction.js';
import { vocabulary } from './vocabulary.js';

export const EXPERIMENTS: readonly Experiment[] = [
  vocabulary,
  quantizerMemory,
  classifierMemory,
  heads,
  selfCorrection,
  scaling,
  progressive,
  reweighting,
  sampling,
];
