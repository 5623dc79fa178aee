/** Between a network in training and the components of a self-describing checkpoint. */
import type { Checkpoint, ComponentName } from '../io/checkpoint.js';
import { fromFloat32, type TensorData } from '../io/tensor_data.js';
import { floatWeights } from '../io/weights.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';

/**
 * The state dict of `module` in bf16, with averaged weights where there are any. What a released checkpoint holds.
 * @param prefix of the module's names among the averages
 * @param factorOf what each tensor is multiplied with, by its name
 */
export async function exportWeights(
  module: Module,
  averages: ReadonlyMap<string, Tensor>,
  prefix = '',
  factorOf: (name: string) => number = () => 1,
): Promise<Map<string, TensorData>> {
  const tensors = new Map<string, TensorData>();
  for (const [name, { shape, data }] of await module.stateDict()) {
    const average = averages.get(prefix + name);
    const values = average ? Float32Array.from(await average.readFloats()) : data;
    const factor = factorOf(name);
    tensors.set(name, fromFloat32(factor === 1 ? values : values.map((v) => v * factor), shape, 'BF16'));
  }
  return tensors;
}

/** Fills `module` with the weights of a checkpoint's component. @throws InfinityError CHECKPOINT_CONFIG_MISMATCH */
export async function loadComponent(module: Module, checkpoint: Checkpoint, name: ComponentName): Promise<void> {
  const source = await checkpoint.weights(name);
  try {
    await module.loadFrom(floatWeights(source, `${name} (${checkpoint.directory})`));
  } finally {
    await source.close();
  }
}
