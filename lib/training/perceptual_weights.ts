/** Opens the weights of the perceptual distance, which come in two files: torchvision's VGG-16 and the linear heads. */
import type { Device } from '../device.js';
import { openTensors } from '../io/open_tensors.js';
import type { TensorSource } from '../io/tensor_source.js';
import { weightFile } from '../io/weight_path.js';
import { digested, type FloatWeights, floatWeights } from '../io/weights.js';
import { placed } from '../nn/module.js';
import { Lpips, lpipsName, vggWidths } from './lpips.js';

/** A network that is ready, and a digest of its weights. */
export interface LoadedLpips {
  readonly network: Lpips;
  readonly digest: string;
}

/** The tensors of all files by the network's own names; of a name that stands in two files the first counts. */
function joined(sources: readonly FloatWeights[], name: string): FloatWeights {
  const shapes = new Map<string, readonly number[]>();
  const homes = new Map<string, () => Promise<Float32Array>>();
  for (const source of sources) {
    for (const [theirs, shape] of source.shapes) {
      const ours = lpipsName(theirs);
      if (ours === undefined || shapes.has(ours)) continue;
      shapes.set(ours, shape);
      homes.set(ours, () => source.read(theirs));
    }
  }
  return { name, shapes, others: new Map(), read: (ours) => homes.get(ours)!() };
}

/**
 * @param paths files or folders that hold `features.*` of VGG-16 and the heads `lin*` between them
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH naming what is missing
 */
export async function loadLpips(paths: readonly string[], device: Device): Promise<LoadedLpips> {
  const open: TensorSource[] = [];
  try {
    for (const path of paths) open.push(await openTensors(await weightFile(path)));
    const files = paths.join(', ');
    const weights = digested(
      joined(
        open.map((source, i) => floatWeights(source, paths[i]!)),
        `the perceptual weights (${files})`,
      ),
      (name) => name,
    );
    const network = placed({ device }, () => new Lpips(vggWidths(weights.shapes)));
    try {
      await network.loadFrom(weights);
    } catch (error) {
      network.dispose();
      throw error;
    }
    return { network, digest: weights.digest() };
  } finally {
    for (const source of open) await source.close();
  }
}
