/** All experiments, in the order of the page. */
import type { Experiment } from '../experiment.js';
import { progressive } from './progressive.js';
import { reweighting } from './reweighting.js';
import { sampling } from './sampling.js';
import { scaling } from './scaling.js';
import { selfCorrection } from './self_correction.js';

export const EXPERIMENTS: readonly Experiment[] = [selfCorrection, scaling, progressive, reweighting, sampling];
