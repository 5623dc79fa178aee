/** The bit head and the quantiser on a card, from and to bf16. */
import { bitHeadSample } from '../../lib/ops/bit_head.js';
import { bitCrossEntropy } from '../../lib/ops/bit_loss.js';
import { drawKeys, packBits, packedBytes } from '../../lib/ops/bits.js';
import { Op } from '../../lib/ops/generated.js';
import { signQuantize } from '../../lib/ops/quantize.js';
import { run } from '../../lib/ops/run.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { type CaseOf, squareSchedule } from './cases.js';
import { HALF, type Job, randomOn } from './measure.js';

/** Guidance, temperature and top-p, with bits, packed bits and codes as results. */
export function bitSampling({ tokens, width, bits }: CaseOf<'bit_sample'>): Job {
  return {
    flops: 2 * 2 * tokens * width * bits,
    bytes: HALF * (2 * tokens * width + bits * width + tokens * bits) + tokens * bits + (tokens * bits) / 8,
    prepare: (device) => {
      const x = randomOn(device, [2, tokens, width]);
      const head = randomOn(device, [bits, width], 'bf16', 0.02);
      const bias = randomOn(device, [bits], 'f32');
      const keys = drawKeys([{ seed: 1, image: 0 }], device);
      const options = {
        guidance: 3,
        tau: 0.5,
        topP: 0.97,
        draws: { keys, scale: 12 },
        images: 1,
        codeBits: bits,
        packed: true,
      };
      return { operands: [x, head, bias, keys], call: () => bitHeadSample(x, head, bias, options) };
    },
  };
}

/** Forward and backward, from hidden states and an f32 head to their gradients. */
export function bitLosses({ tokens, width, bits }: CaseOf<'bit_loss'>): Job {
  return {
    flops: 3 * 2 * tokens * width * bits,
    bytes: HALF * 3 * tokens * width + 4 * 3 * 2 * bits * width + tokens * packedBytes(bits),
    prepare: (device) => {
      const x = randomOn(device, [tokens, width]);
      const w = randomOn(device, [2 * bits, width], 'f32', 0.02);
      const b = randomOn(device, [2 * bits], 'f32');
      const labels = scope(() => packBits(signQuantize(randomOn(device, [tokens, bits]), 1).bits));
      const one = Tensor.from([1], [], 'f32', device);
      const call = () => {
        const tape = new Tape().watch(x, w, b);
        const { loss } = tape.run(() => bitCrossEntropy(x, w, b, labels, null));
        tape.backward([{ of: loss, cotangent: one }]).dispose();
      };
      return { operands: [x, w, b, labels, one], call };
    },
  };
}

export function quantisation({ pictures: B, channels: d, scales }: CaseOf<'quantise'>): Job {
  const grids = squareSchedule(scales).map(([, h, w]) => [h, w]);
  const positions = grids.map(([h, w]) => h! * w!);
  const L = positions.reduce((a, b) => a + b, 0);
  const [H = 1, W = 1] = grids.at(-1)!;
  return {
    // Features are read, packed labels, inputs of the later scales and the sum are written.
    bytes: B * (d * HALF * (H * W + L - 1 + H * W) + L * packedBytes(d)),
    prepare: (device) => {
      const features = randomOn(device, [B, H, W, d]);
      const grid = Tensor.from(Int32Array.from(grids.flat()), [scales, 2], 'i32', device);
      const strengths = Tensor.from(new Float32Array(scales).fill(0.2), [scales], 'f32', device);
      const keys = drawKeys(
        Array.from({ length: B }, (_, image) => ({ seed: 1, image })),
        device,
      );
      const outputs = [
        { dtype: 'u8', shape: [B, L, packedBytes(d)] },
        { dtype: 'bf16', shape: [B, L - 1, d] },
        { dtype: 'bf16', shape: [B, H, W, d] },
        { dtype: 'u8', shape: [1] },
        { dtype: 'u8', shape: [1] },
      ] as const;
      const call = () => run(Op.multiscaleResidual, [features, grid, strengths, null, keys], outputs, [1, 0, 0, 1, 0]);
      return { operands: [features, grid, strengths, keys], call };
    },
  };
}
