/** Parts of a tensor source: the state dict that lies deeper in a training checkpoint, under the names of its own network. */

import type { TensorData, TensorInfo } from './tensor_data.js';
import type { TensorSource } from './tensor_source.js';

/** Segments that PyTorch's wrappers put into names: compiled, sharded and recomputed modules. */
const WRAPPERS = /(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)/g;

/** A tensor's name without the wrappers' segments. */
export function unwrapped(name: string): string {
  return name.replace(WRAPPERS, '').replace(/^\./, '');
}

/**
 * The tensors whose unwrapped names begin with `prefix`, under what follows it. Closing the view closes the source.
 *
 * @param prefix empty for all, otherwise with the dot at its end: "trainer.gpt_fsdp."
 */
export function tensorsBelow(source: TensorSource, prefix: string): TensorSource {
  const tensors = new Map<string, TensorInfo>();
  const homes = new Map<string, string>();
  for (const [home, info] of source.tensors) {
    const name = unwrapped(home);
    if (!name.startsWith(prefix)) continue;
    tensors.set(name.slice(prefix.length), info);
    homes.set(name.slice(prefix.length), home);
  }
  return {
    tensors,
    metadata: source.metadata,
    read: (name): Promise<TensorData> => source.read(homes.get(name) ?? prefix + name),
    close: () => source.close(),
  };
}
