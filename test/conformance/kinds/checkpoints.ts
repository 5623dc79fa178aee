/** Transformers in every container: the weights that a network has after loading, and one forward pass with them. */

import { tensorsBelow } from '../../../lib/io/nested_tensors.js';
import { openTensors } from '../../../lib/io/open_tensors.js';
import { fromFloat32, toFloat32 } from '../../../lib/io/tensor_data.js';
import type { TensorSource } from '../../../lib/io/tensor_source.js';
import { weightFile } from '../../../lib/io/weight_path.js';
import { floatWeights } from '../../../lib/io/weights.js';
import { parseInfinityConfig } from '../../../lib/transformer/config.js';
import { InfinityTransformer } from '../../../lib/transformer/infinity.js';
import { findStates } from '../../../lib/weights/find_states.js';
import { download, type HostArray, sliced, upload } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';
import { globMatches } from '../glob.js';
import { finestOf, type TransformerFields, textFeatures } from './transformer_config.js';

/** What is done to the stored weights before they are compared. */
type Transform = null | { readonly bf16: string } | { readonly add: number };

interface Load {
  readonly path: string;
  readonly select: string | null;
  readonly select_path: readonly string[] | null;
  readonly config: string;
  /** Glob over the stored tensors. */
  readonly weights: string;
  readonly weights_transform: Transform;
  readonly logits: string;
}

interface CheckpointFields extends TransformerFields {
  readonly loads: readonly Load[];
  readonly text_maxlen?: {
    readonly tensor: string;
    readonly facts: readonly {
      readonly text_maxlen: number;
      readonly rows_from_file: number;
      readonly rows_from_model: number;
    }[];
  };
}

const FIRST_SEED = 1;

function transformed({ shape, data }: HostArray, name: string, transform: Transform): HostArray {
  const values = Float32Array.from(data as ArrayLike<number>);
  if (transform && 'add' in transform) return { shape, data: values.map((v) => v + Math.fround(transform.add)) };
  if (!transform || !globMatches(transform.bf16, name)) return { shape, data: values };
  return { shape, data: toFloat32(fromFloat32(values, shape, 'BF16')) };
}

/** Where the weights lie when the case names them without the way to them. */
function placeOf({ tensors }: TensorSource, { path, select }: Load): string {
  if (select === null) return '';
  const states = findStates(tensors.keys()).filter(({ prefix }) => `.${prefix}`.endsWith(`.${select}.`));
  if (states.length !== 1) throw new CaseError(`${states.length} places in ${path} are called ${select}`);
  return states[0]!.prefix;
}

/** The network that the JSON describes, initialised and then loaded. The caller disposes it. */
async function loaded(c: GoldenCase, load: Load, overrides: object = {}): Promise<InfinityTransformer> {
  const config = (c.json as unknown as Readonly<Record<string, object>>)[load.config];
  if (!config) throw new CaseError(`there is no "${load.config}" in the JSON`);
  const path = await weightFile(c.file(load.path));
  const source = await openTensors(path);
  const model = new InfinityTransformer(parseInfinityConfig({ ...config, ...overrides }));
  try {
    const prefix = load.select_path ? load.select_path.map((key) => `${key}.`).join('') : placeOf(source, load);
    return await model.initialize(FIRST_SEED).loadFrom(floatWeights(tensorsBelow(source, prefix), load.path));
  } catch (error) {
    model.dispose();
    throw error;
  } finally {
    await source.close();
  }
}

/** Stored tensors of a load with the names that the network gives them. */
function storedWeights(c: GoldenCase, { weights }: Load): [stored: string, own: string][] {
  const before = weights.split('*')[0]!.length;
  return c.names(weights).map((stored) => [stored, stored.slice(before)]);
}

async function checkLoad(c: GoldenCase, fields: CheckpointFields, load: Load): Promise<void> {
  const pass = [load.path, ...(load.select_path ?? [])].join(' ');
  using model = await loaded(c, load);
  const state = await model.stateDict();
  for (const [stored, own] of storedWeights(c, load)) {
    const got = state.get(own);
    if (!got) throw new CaseError(`the network of ${load.path} has no tensor ${own}`);
    c.give(stored, got, pass, transformed(c.array(stored), own, load.weights_transform));
  }
  using x = upload(c.array('x_BLC_wo_prefix'));
  const text = textFeatures(c);
  using kv = text.kv_NCt;
  using logits = model.forward(x, { text, schedule: fields.scale_schedule, finest: finestOf(fields) });
  c.give(load.logits, await download(logits), pass);
  kv.dispose();
}

/** Rows of the unconditional text beyond those of the file stay what they were in the new network. */
async function checkRows(
  c: GoldenCase,
  load: Load,
  facts: NonNullable<CheckpointFields['text_maxlen']>,
): Promise<void> {
  const { tensor } = facts;
  const own = storedWeights(c, load).find(([stored]) => stored === tensor)?.[1];
  if (own === undefined) throw new CaseError(`${tensor} is no weight of ${load.path}`);
  for (const { text_maxlen, rows_from_file, rows_from_model } of facts.facts) {
    using model = await loaded(c, load, { text_maxlen });
    using fresh = new InfinityTransformer(model.config).initialize(FIRST_SEED);
    const [got, before] = [(await model.stateDict()).get(own)!, (await fresh.stateDict()).get(own)!];
    const file = transformed(c.array(tensor), own, load.weights_transform);
    const rows = (a: HostArray, begin: number, count: number) => sliced(a, 0, begin, begin + count);
    const pass = `text_maxlen ${text_maxlen}`;
    if (got.shape[0] !== rows_from_file + rows_from_model) throw new CaseError(`${pass}: ${got.shape[0]} rows`);
    if (rows_from_file > 0)
      c.give(tensor, rows(got, 0, rows_from_file), `${pass}, of the file`, rows(file, 0, rows_from_file));
    if (rows_from_model > 0)
      c.give(
        tensor,
        rows(got, rows_from_file, rows_from_model),
        `${pass}, of the network`,
        rows(before, rows_from_file, rows_from_model),
      );
  }
}

export async function checkpoints(c: GoldenCase): Promise<void> {
  const fields = c.fields<CheckpointFields>();
  for (const load of fields.loads) await checkLoad(c, fields, load);
  if (fields.text_maxlen && fields.loads[0]) await checkRows(c, fields.loads[0], fields.text_maxlen);
}
