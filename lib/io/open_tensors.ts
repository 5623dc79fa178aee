/** Opening weights without caring which format they lie in. */
import { PthFile } from './pth.js';
import { SafetensorsFile } from './safetensors.js';
import { openSharded } from './sharded.js';
import type { TensorSource } from './tensor_source.js';

/** Names that PyTorch files go by. */
const PYTORCH_FILE = /\.(pth|pt|bin)$/;

async function openFile(path: string): Promise<TensorSource> {
  return PYTORCH_FILE.test(path) ? PthFile.open(path) : SafetensorsFile.open(path);
}

/**
 * Opens a `.safetensors` file, a PyTorch file (`.pth`, `.pt`, `.bin`), or all shards of either kind that an index
 * (`*.index.json`) lists. Only what describes the tensors is read; each tensor's values when they are asked for.
 *
 * @throws InfinityError MODEL_NOT_FOUND, IO_ERROR, CHECKPOINT_INVALID, and UNSAFE_PICKLE for a PyTorch file that asks for
 *   more than data
 */
export async function openTensors(path: string): Promise<TensorSource> {
  return path.endsWith('.json') ? openSharded(path, openFile) : openFile(path);
}
