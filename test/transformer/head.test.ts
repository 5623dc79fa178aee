import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { bitSample, drawKeys } from '../../lib/ops/bits.js';
import { scope } from '../../lib/tensor.js';
import { BitHead } from '../../lib/transformer/bit_head.js';
import { officialInfinityConfig } from '../../lib/transformer/config.js';
import { assertClean, isaDevices, random } from '../support/numeric.js';

const [B, L, C, D] = [2, 5, 96, 14];

function headOn(device: Device): BitHead {
  const config = { ...officialInfinityConfig('infinity_layer12'), embed_dim: C, vae_embed_dim: D };
  return placed({ device }, () => new BitHead(config)).initialize(3);
}

for (const [isa, device] of isaDevices())
  describe(`bit head module on ${isa}`, () => {
    for (const format of [undefined, 'f32', 'bf16'] as const)
      it(`samples what its logits give, ${format ? `frozen as ${format}` : 'not frozen'}`, async function () {
        // Frozen weights of the processor are in panels, and it draws from logits.
        if (format && device.kind === 'cpu') this.skip();
        const live = device.stats().liveTensors;
        const head = headOn(device);
        if (format) head.freeze(format);
        const outputs = scope(() => {
          const h_RLC = random(device, 1, [2 * B, L, C], 'f32', 20);
          const images = [0, 1].map((image) => ({ seed: 4, image }));
          const choice = { guidance: 2, tau: 0.8, draws: { keys: drawKeys(images, device), scale: 1 } };
          const drawn = head.sample(h_RLC, { images: B, probabilities: true, ...choice });
          const logits = head.classify(h_RLC);
          const half = (n: number) => logits.view([B, L, 2 * D], n * B * L * 2 * D);
          const wanted = bitSample(half(0), half(1), choice);
          return [drawn.bits, wanted.bits, drawn.prob0!, wanted.prob0];
        });
        const [bits, wantBits, prob0, wantProb0] = await Promise.all(outputs.map((t) => t.read()));
        // The difference of two rows is rounded instead of the rows: half a unit of bf16 for one of each.
        const tolerance = format === 'bf16' ? 2 ** -5 : 2e-5;
        const spread = prob0!.filter((p) => p > 0.05 && p < 0.95).length;
        assert.ok(spread > prob0!.length / 4, 'probabilities that tell something');
        for (const [i, p] of prob0!.entries())
          assert.ok(Math.abs(p - wantProb0![i]!) < tolerance, `${p} and ${wantProb0![i]}`);
        if (format !== 'bf16') assert.deepEqual(bits, wantBits);
        for (const t of outputs) t.dispose();
        head.dispose();
        await assertClean(device, live);
      });
  });
