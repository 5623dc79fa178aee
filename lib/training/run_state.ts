/**
 * The state of a run in one file, so that it is replaced in one rename: weights, optimizer state and the data cursor, with a digest
 * of all of them. A run directory keeps the newest two; a resumed run opens the newest that is what was saved, bit for bit.
 */
import { createHash } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { SavedBadRows } from '../data/bad_rows.js';
import { InfinityError } from '../errors.js';
import { SafetensorsFile, writeSafetensors } from '../io/safetensors.js';
import { fromFloat32, type TensorData, toFloat32 } from '../io/tensor_data.js';
import { readAll } from '../io/tensor_source.js';
import type { HostTensor } from '../nn/module.js';

/** Everything a resumed run needs. */
export interface RunState {
  /** Updates made so far; the next sample index follows from it. */
  readonly step: number;
  /** The configuration the run was started with: a resumed run must agree with it. */
  readonly config: unknown;
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** Rows that were passed over; absent where there were none. */
  readonly badRows?: SavedBadRows;
}

/** States that a run directory keeps. */
export const KEPT_STATES = 2;
const NAME = /^state-(\d+)\.safetensors$/;

/** A saved state on disk. */
export interface SavedState {
  readonly step: number;
  readonly path: string;
}

/** The saved states of a run directory, the newest first. */
export async function savedStates(directory: string): Promise<SavedState[]> {
  const names = await readdir(directory).catch(() => []);
  return names
    .flatMap((name) => {
      const step = NAME.exec(name)?.[1];
      return step === undefined ? [] : [{ step: Number(step), path: join(directory, name) }];
    })
    .sort((a, b) => b.step - a.step);
}

/** The newest state that was saved before step `since`. */
export function lastGoodState(states: readonly SavedState[], since: number): SavedState | undefined {
  return states.find(({ step }) => step < since);
}

type Texts = Readonly<Record<string, string>>;

/** Of everything that a state holds, in an order that does not depend on the file's. */
function digestOf({ sha256: _, ...texts }: Texts, tensors: ReadonlyMap<string, TensorData>): string {
  const hash = createHash('sha256').update(`${JSON.stringify(Object.entries(texts).sort())}\n`);
  for (const [name, { dtype, shape, data }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${JSON.stringify([name, dtype, shape])}\n`).update(data);
  return hash.digest('hex');
}

/**
 * Writes `state-STEP.safetensors` atomically. Then removes all but the newest two and the newest before step `good`, and states of
 * later steps: the run was resumed from an earlier one because they are damaged.
 * @throws InfinityError IO_ERROR, DISK_FULL; the states before stay
 */
export async function saveRunState(directory: string, state: RunState, good = Infinity): Promise<string> {
  const path = join(directory, `state-${String(state.step).padStart(8, '0')}.safetensors`);
  const tensors = new Map<string, TensorData>();
  for (const [name, { shape, data }] of state.tensors) tensors.set(name, fromFloat32(data, shape));
  const texts = {
    step: String(state.step),
    config: JSON.stringify(state.config),
    ...(state.badRows && { bad_rows: JSON.stringify(state.badRows) }),
  };
  await writeSafetensors(path, tensors, { ...texts, sha256: digestOf(texts, tensors) });
  const states = (await savedStates(directory)).filter(({ step }) => step <= state.step);
  const kept = [...states.slice(0, KEPT_STATES), lastGoodState(states, good)];
  for (const old of await savedStates(directory))
    if (!kept.some((saved) => saved?.path === old.path)) await rm(old.path, { force: true });
  return path;
}

async function openRunState(path: string): Promise<RunState> {
  const file = await SafetensorsFile.open(path);
  try {
    const { metadata } = file;
    const read = await readAll(file);
    // States of earlier versions have no digest, and nothing but these two texts.
    const unsealed = Object.keys(metadata).sort().join() === 'config,step';
    if (!unsealed && metadata.sha256 !== digestOf(metadata, read))
      throw new InfinityError('CHECKPOINT_INVALID', `The state ${path} is not what was saved: its digest differs.`, {
        value: path,
        cure: 'Delete it: the run goes on from the state before.',
      });
    const tensors = [...read].map(([name, t]) => [name, { shape: t.shape, data: toFloat32(t) }] as const);
    return {
      step: Number(metadata.step),
      config: JSON.parse(metadata.config ?? 'null') as unknown,
      tensors: new Map(tensors),
      ...(metadata.bad_rows === undefined ? {} : { badRows: JSON.parse(metadata.bad_rows) as SavedBadRows }),
    };
  } finally {
    await file.close();
  }
}

/** Where a run goes on from. */
export interface FoundState {
  readonly state: RunState;
  readonly path: string;
  /** Newer ones that are not what was saved, and why. */
  readonly damaged: readonly { readonly path: string; readonly reason: string }[];
}

/**
 * The newest state of a run directory that is what was saved, or undefined when the directory has none.
 * @throws InfinityError CHECKPOINT_INVALID when all are damaged
 */
export async function loadRunState(directory: string): Promise<FoundState | undefined> {
  const damaged: { path: string; reason: string }[] = [];
  let damage: unknown;
  for (const { path } of await savedStates(directory)) {
    try {
      return { state: await openRunState(path), path, damaged };
    } catch (error) {
      damage ??= error;
      damaged.push({ path, reason: error instanceof InfinityError ? error.statement : String(error) });
    }
  }
  if (damage) throw damage;
  return undefined;
}

/** Fields that hold digests, which say nothing to a reader: what changed, and what can be done. */
const CONTENTS: Readonly<Record<string, readonly [changed: string, cure: string]>> = {
  dataset_digest: [
    'The pictures or captions of the dataset are not those that the run was started with.',
    'Put them back as they were, or go on with the new ones in another output directory, with --init and the checkpoint of this run.',
  ],
  perceptual_digest: [
    'The weights of loss.perceptual_weights are not those that the run was started with.',
    'Put the files back, or choose another output directory.',
  ],
  frozen_text: [
    'The frozen text encoder is not the one that the run was started with.',
    'Resume with the same --init, or choose another output directory.',
  ],
  text_tokenizer: [
    'The text tokenizer is not the one that the run was started with.',
    'Resume with the same --init, or choose another output directory.',
  ],
};

/** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH naming the first field in which two configurations differ */
export function checkSameConfig(saved: unknown, given: unknown, free: readonly string[]): void {
  const a = saved as Record<string, unknown>;
  const b = given as Record<string, unknown>;
  for (const key of new Set([...Object.keys(a ?? {}), ...Object.keys(b ?? {})])) {
    if (free.includes(key) || JSON.stringify(a?.[key]) === JSON.stringify(b?.[key])) continue;
    const [changed, cure] = CONTENTS[key] ?? [
      `Expected ${JSON.stringify(a?.[key])} for '${key}', as the run was started with, but received ${JSON.stringify(b?.[key])}.`,
      'Resume with the same config, or choose another output directory.',
    ];
    throw new InfinityError('CHECKPOINT_CONFIG_MISMATCH', changed, {
      value: b?.[key],
      fields: { field: key },
      cure,
    });
  }
}
