/** The perceptual distance against plain loops, at small widths: the architecture is a parameter. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32 } from '../../lib/io/tensor_data.js';
import { type HostTensor, placed } from '../../lib/nn/module.js';
import { Tensor } from '../../lib/tensor.js';
import { Lpips } from '../../lib/training/lpips.js';
import { loadLpips } from '../../lib/training/perceptual_weights.js';
import { assertDirections } from '../support/directions.js';
import { assertClean, isaDevices, randomArray } from '../support/numeric.js';
import { convolve, map, maxPool, type Plain, pictures, unitVectors } from '../support/plain_convnet.js';
import { smallVgg, WIDTHS } from '../support/small_vgg.js';
import { legacyTorchState } from '../support/torch_file.js';

const SHAPE = [2, 18, 16, 3];

/** torchvision's features of VGG-16 as a list, poolings as "M". */
const LAYERS = [1, 1, 'M', 2, 2, 'M', 3, 3, 3, 'M', 4, 4, 4, 'M', 5, 5, 5];

function plainFeatures(picture: Plain, weights: ReadonlyMap<string, HostTensor>): Plain[] {
  const [shift, scale] = [
    [-0.03, -0.088, -0.188],
    [0.458, 0.448, 0.45],
  ];
  let p = map(picture, (v, k) => (v - shift[k]!) / scale[k]!);
  const found: Plain[] = [];
  let at = 0;
  for (const [i, layer] of LAYERS.entries()) {
    if (layer === 'M') {
      found.push(unitVectors(p));
      p = maxPool(p);
      at++;
      continue;
    }
    const weight = weights.get(`features.${at}.weight`)!;
    const bias = weights.get(`features.${at}.bias`)!;
    p = map(convolve(p, weight.data, bias.data, { outputs: weight.shape[0]!, kernel: 3 }), (v) => Math.max(v, 0));
    at += 2;
    if (i === LAYERS.length - 1) found.push(unitVectors(p));
  }
  return found;
}

function plainDistance(a: Plain, b: Plain, weights: ReadonlyMap<string, HostTensor>): number {
  const [fa, fb] = [plainFeatures(a, weights), plainFeatures(b, weights)];
  let distance = 0;
  for (const [block, { h, w, c, data }] of fa.entries()) {
    const head = weights.get(`lin${block}.model.1.weight`)!.data;
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += head[i % c]! * (data[i]! - fb[block]!.data[i]!) ** 2;
    distance += sum / (h * w);
  }
  return distance;
}

describe('LPIPS', () => {
  const weights = smallVgg(7);
  const a = randomArray(1, 2 * 18 * 16 * 3);
  const b = randomArray(2, 2 * 18 * 16 * 3);
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-lpips-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const save = (name: string, wanted: (tensor: string) => boolean, rename = (tensor: string) => tensor) =>
    writeSafetensors(
      join(root, name),
      new Map(
        [...weights]
          .filter(([tensor]) => wanted(tensor))
          .map(([tensor, { data, shape }]) => [rename(tensor), fromFloat32(data, shape)]),
      ),
    );

  const twoFiles = async (): Promise<string[]> => {
    await save('vgg16.safetensors', (name) => !name.startsWith('lin'));
    await save('vgg.safetensors', (name) => name.startsWith('lin'));
    return ['vgg16.safetensors', 'vgg.safetensors'].map((name) => join(root, name));
  };

  for (const [isa, device] of isaDevices())
    it(`equals plain loops on ${isa}`, async () => {
      const live = device.stats().liveTensors;
      const { network } = await loadLpips(await twoFiles(), device);
      const [x, y] = [a, b].map((values) => Tensor.from(values, SHAPE, 'f32', device));
      const distance = network.distance(x!, y!);
      const [got] = await distance.readFloats();
      const [pa, pb] = [pictures(a, SHAPE), pictures(b, SHAPE)];
      const want = (plainDistance(pa[0]!, pb[0]!, weights) + plainDistance(pa[1]!, pb[1]!, weights)) / 2;
      assert.ok(want > 0.01 && Math.abs(got! - want) < 1e-5 * want, `${got} ${want}`);
      for (const resource of [distance, x, y, network]) resource!.dispose();
      await assertClean(device, live);
    });

  it('is read from the two files that it is published in, or from a training checkpoint', async () => {
    const { network, digest } = await loadLpips(await twoFiles(), Device.default());
    network.dispose();
    await save(
      'training.safetensors',
      () => true,
      (name) => `perceptual_model.${name.replace(/^features/, 'net.slice1')}`,
    );
    const again = await loadLpips([join(root, 'training.safetensors')], Device.default());
    again.network.dispose();
    assert.equal(again.digest, digest);
  });

  it('is read from the files in the form that they were published in, before PyTorch 1.6', async () => {
    const { network, digest } = await loadLpips(await twoFiles(), Device.default());
    network.dispose();
    const paths = ['vgg16.pth', 'vgg.pth'].map((name) => join(root, name));
    for (const [i, path] of paths.entries()) {
      const own = [...weights].filter(([name]) => name.startsWith('lin') === (i === 1));
      await writeFile(path, legacyTorchState(new Map(own.map(([name, t]) => [name, fromFloat32(t.data, t.shape)]))));
    }
    const again = await loadLpips(paths, Device.default());
    again.network.dispose();
    assert.equal(again.digest, digest);
    await assert.rejects(loadLpips([paths[1]!], Device.default()), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message: /features\.0\.weight/,
    });
  });

  it('has the gradient that directional differences have', async () => {
    using network = placed({ dtype: 'f64' }, () => new Lpips(WIDTHS));
    network.load(new Map([...weights].map(([name, tensor]) => [name.replace('.model.1', ''), tensor])));
    using x = Tensor.from(a, SHAPE, 'f64');
    using y = Tensor.from(b, SHAPE, 'f64');
    await assertDirections([x], () => network.distance(x, y));
  });

  it('names what the files lack', async () => {
    await save('headless.safetensors', (name) => name.startsWith('features') && !/features\.28/.test(name));
    await assert.rejects(
      loadLpips([join(root, 'headless.safetensors')], Device.default()),
      (e: unknown) =>
        e instanceof InfinityError &&
        e.code === 'CHECKPOINT_CONFIG_MISMATCH' &&
        /features\.28\.weight/.test(e.message) &&
        /lin0\.weight/.test(e.message),
    );
    await assert.rejects(
      loadLpips([join(root, 'nothing.pth')], Device.default()),
      (e: unknown) => e instanceof InfinityError && e.code === 'MODEL_NOT_FOUND',
    );
  });
});
