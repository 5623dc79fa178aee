/**
 * The state of a run in one file, so that it is replaced in one rename: weights, optimizer state and the data cursor.
 * A run directory keeps the newest two; a resumed run opens the newest that reads back whole.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { InfinityError } from '../errors.js';
import { SafetensorsFile, writeSafetensors } from '../io/safetensors.js';
import { fromFloat32, type TensorData, toFloat32 } from '../io/tensor_data.js';
import type { HostTensor } from '../nn/module.js';

/** Everything a resumed run needs. */
export interface RunState {
  /** Updates made so far; the next sample index follows from it. */
  readonly step: number;
  /** The configuration the run was started with: a resumed run must agree with it. */
  readonly config: unknown;
  readonly tensors: ReadonlyMap<string, HostTensor>;
}

const KEPT = 2;
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

/**
 * Writes `state-STEP.safetensors` atomically, then removes all but the newest two and the newest before step `good`.
 * @throws InfinityError IO_ERROR, DISK_FULL; the states before stay
 */
export async function saveRunState(directory: string, state: RunState, good = Infinity): Promise<string> {
  const path = join(directory, `state-${String(state.step).padStart(8, '0')}.safetensors`);
  const tensors = new Map<string, TensorData>();
  for (const [name, { shape, data }] of state.tensors) tensors.set(name, fromFloat32(data, shape));
  await writeSafetensors(path, tensors, { step: String(state.step), config: JSON.stringify(state.config) });
  const states = await savedStates(directory);
  const last = lastGoodState(states, good);
  for (const old of states.slice(KEPT)) if (old !== last) await rm(old.path, { force: true });
  return path;
}

async function openRunState(path: string): Promise<RunState> {
  const file = await SafetensorsFile.open(path);
  try {
    const tensors = new Map<string, HostTensor>();
    for (const name of file.tensors.keys()) {
      const data = await file.read(name);
      tensors.set(name, { shape: data.shape, data: toFloat32(data) });
    }
    return { step: Number(file.metadata.step), config: JSON.parse(file.metadata.config ?? 'null') as unknown, tensors };
  } finally {
    await file.close();
  }
}

/** The newest state of a run directory, or undefined when it has none. A damaged newest file falls back to the one before. */
export async function loadRunState(directory: string): Promise<RunState | undefined> {
  const files = await savedStates(directory);
  let damage: unknown;
  for (const { path } of files) {
    try {
      return await openRunState(path);
    } catch (error) {
      damage ??= error;
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
