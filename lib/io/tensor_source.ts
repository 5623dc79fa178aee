/** Named tensors at rest, whatever format they lie in. */
import { InfinityError } from '../errors.js';
import type { TensorData, TensorInfo } from './tensor_data.js';

/** Named tensors that are read on demand, from one file or from many. Close it when done. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** @throws InfinityError CHECKPOINT_INVALID when there is no such tensor or its bytes cannot be read */
  read(name: string): Promise<TensorData>;
  close(): Promise<void>;
}

/** All tensors of a source, in its order. */
export async function readAll(source: TensorSource): Promise<Map<string, TensorData>> {
  const tensors = new Map<string, TensorData>();
  for (const name of source.tensors.keys()) tensors.set(name, await source.read(name));
  return tensors;
}

export function noSuchTensor(name: string, path: string): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `Expected a tensor "${name}" in ${path} but found none.`, {
    value: name,
    cure: 'Check that the file belongs to this model.',
  });
}
