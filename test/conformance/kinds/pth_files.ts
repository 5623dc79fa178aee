/** Checkpoint files of PyTorch: good ones give the tokenizer they were saved from, broken and hostile ones an error. */
import { readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { InfinityError } from '../../../lib/errors.js';
import { tensorsBelow } from '../../../lib/io/nested_tensors.js';
import { openTensors } from '../../../lib/io/open_tensors.js';
import { readSafetensors } from '../../../lib/io/safetensors.js';
import { readAll } from '../../../lib/io/tensor_source.js';
import { floatWeights } from '../../../lib/io/weights.js';
import { Autoencoder } from '../../../lib/tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../../../lib/tokenizer/config.js';
import { chooseState, findStates } from '../../../lib/weights/find_states.js';
import { fromStored, type HostArray } from '../array.js';
import type { GoldenCase } from '../case.js';

interface PthItem {
  readonly expect: 'load' | 'reject' | 'either';
  /** Tensors that the loaded state equals. */
  readonly expected?: string;
  readonly reason_code?: string;
  readonly reason_code_alt?: readonly string[];
}

interface PthFields {
  readonly config: object;
  readonly files: Readonly<Record<string, PthItem>>;
}

/** The state of the tokenizer built from a file: its own tensors, and what the quantiser would keep. */
async function loadedState(path: string, config: object): Promise<Map<string, HostArray>> {
  const file = await openTensors(path);
  try {
    // First of all the reader's own checks, whatever the tokenizer needs: a wrong checksum shows where content is read.
    await readAll(file);
    const { prefix } = chooseState(findStates(file.tensors.keys()), 'vae', false, path);
    const source = tensorsBelow(file, prefix);
    using model = new Autoencoder(parseAutoencoderConfig(config));
    await model.loadFrom(floatWeights(source, path));
    const state = new Map<string, HostArray>(await model.stateDict());
    for (const name of source.tensors.keys())
      if (/^(quantizer|quantize)\./.test(name)) state.set(name, fromStored(await source.read(name)));
    return state;
  } finally {
    await file.close();
  }
}

/** What stands where a hostile file could write to. */
const surroundings = (path: string): string =>
  [dirname(path), dirname(dirname(path))].map((folder) => readdirSync(folder).sort().join()).join(';');

/** "loaded", or the code of the error. */
async function outcomeOf(path: string, config: object): Promise<string> {
  try {
    await loadedState(path, config);
    return 'loaded';
  } catch (error) {
    return error instanceof InfinityError ? error.code : `no InfinityError: ${error}`;
  }
}

async function tryFile(c: GoldenCase, file: string, item: PthItem, config: object): Promise<void> {
  const path = c.file(file);
  const before = surroundings(path);
  const outcome = await outcomeOf(path, config);
  const codes = [item.reason_code, ...(item.reason_code_alt ?? [])];
  const accepted = item.expect === 'either' ? /^\w+$/.test(outcome) : codes.includes(outcome);
  const silent = surroundings(path) === before;
  c.verdict(file, accepted && silent, silent ? outcome : 'something was written beside the file');
}

export async function pthFiles(c: GoldenCase): Promise<void> {
  const { config, files } = c.fields<PthFields>();
  for (const [file, item] of Object.entries(files)) {
    if (item.expect !== 'load') {
      await tryFile(c, file, item, config);
      continue;
    }
    if (item.expected === undefined) throw new Error(`${file} names no file of expected tensors`);
    const stored = await readSafetensors(c.file(item.expected));
    const state = await loadedState(c.file(file), config).catch((error: unknown) => error);
    if (!(state instanceof Map)) {
      c.verdict(file, false, String(state));
      continue;
    }
    for (const [name, td] of stored) c.compareApart(`${file}: ${name}`, name, state.get(name), fromStored(td));
  }
}
