import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { detectObjects, shapesPrompts } from '../../lib/eval/shapes/index.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { embeddedModel } from '../../lib/pipeline/load_options.js';

/** What npm may grow by. */
const LARGEST = 12e6;

describe('the embedded model', () => {
  let pipe: InfinityPipeline;
  before(async () => {
    pipe = await InfinityPipeline.fromPretrained();
  });
  after(() => pipe.dispose());

  it('is whole, in bf16, and small enough to travel', async () => {
    const { index } = await Checkpoint.open(embeddedModel());
    const weights = Object.keys(index.files).filter((name) => name.endsWith('.safetensors'));
    assert.equal(weights.length, 3);
    let bytes = 0;
    for (const name of weights) bytes += (await stat(join(embeddedModel(), name))).size;
    assert.ok(bytes <= LARGEST, `${bytes} bytes`);
    const { transformer, vae, text_encoder } = pipe.info.parameters;
    assert.ok(bytes < 2.1 * (transformer + vae + text_encoder), 'two bytes a weight and a header');
  });

  it('draws the colour it is asked for far more often than by chance', async () => {
    const prompts = shapesPrompts({ seed: 4, perCategory: 16 }).filter((p) => p.category === 'colors');
    const { images } = await pipe.generate(
      prompts.map((p) => p.prompt),
      { seed: 1 },
    );
    const right = prompts.filter((p, i) =>
      detectObjects(images[i]!.data, images[i]!.width, images[i]!.height).some(
        (object) => object.color === p.targets[0]!.color,
      ),
    );
    // One colour in eight is right by chance. How often shape and colour are right is said by the model card.
    assert.ok(right.length >= 10, `${right.length} of ${prompts.length}`);
  });

  it('reconstructs a scene of its set closely', async () => {
    const { images } = await pipe.generate('a red circle', { seed: 1 });
    const { psnr, image } = await pipe.reconstruct(images[0]!);
    assert.ok(psnr > 20, `${psnr} dB`);
    assert.deepEqual([image.width, image.height], pipe.sizes[0]);
  });
});
