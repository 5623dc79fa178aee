/** What an experiment is: a claim, the cells that are measured for it, and the reading of what they gave. */
import type { Device } from '../../lib/device.js';
import type { Plot } from './plot.js';
import type { Workshop } from './workshop.js';

/** The configuration of a cell, its seed included: plain data, because its digest is the cell's name. */
export type Config = Readonly<Record<string, string | number | boolean>>;

/** What a cell measured, by name; units stand in the names. */
export type Values = Readonly<Record<string, number>>;

/** What a cell may use. */
export interface Context {
  readonly device: Device;
  /** Trained models, each trained once for all experiments. */
  readonly workshop: Workshop;
  readonly signal: AbortSignal;
}

/** One point of an experiment: the smallest thing that is measured, recorded and repeated. */
export interface Cell {
  readonly config: Config;
  /** Expected on two quiet cores, without models that other cells train. */
  readonly seconds: number;
  /** Cells of round 0 of all experiments come first, so that an unfinished run shows something of everything. */
  readonly round: number;
  run(context: Context): Promise<Values>;
}

/** A cell that was measured. */
export interface Result {
  readonly config: Config;
  readonly values: Values;
}

/** `open`: measured, but within the spread, or at fewer than three seeds. */
export type Verdict = 'holds' | 'does not hold in small' | 'open';

/** One sentence of the paper against its numbers. */
export interface Finding {
  readonly verdict: Verdict;
  /** Says what was measured, with its numbers. */
  readonly text: string;
}

/** Rows under a head; the first column names them. */
export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** How an experiment reads its results. Parts whose cells are missing are left out. */
export interface Reading {
  readonly tables: readonly Table[];
  readonly plots: readonly Plot[];
  readonly findings: readonly Finding[];
}

export interface Experiment {
  /** For `--only`, records and file names. */
  readonly name: string;
  /** Enters the key of every cell: raised when a cell of the same configuration would measure something else. */
  readonly version: number;
  readonly title: string;
  /** The paper's sentence, with its figures. */
  readonly claim: string;
  /** What is measured here in its place. */
  readonly method: string;
  /** `short`: a few cells that are done in seconds and show that everything works. */
  cells(short: boolean): readonly Cell[];
  /** Reads any part of the cells, none included. */
  read(results: readonly Result[]): Reading;
}
