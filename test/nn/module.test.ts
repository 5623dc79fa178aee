import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { constant, truncatedNormal, zeros } from '../../lib/nn/init.js';
import { type HostTensor, Module, placed } from '../../lib/nn/module.js';
import { scale } from '../../lib/ops/elementwise.js';
import type { Tensor } from '../../lib/tensor.js';

class Leaf extends Module {
  readonly weight: Tensor;
  readonly mask: Tensor;
  constructor(width: number) {
    super();
    this.weight = this.parameter('weight', [width, 2], truncatedNormal(0.5, { cut: 1 }));
    this.mask = this.buffer('zero_k_bias', [width], zeros);
  }
}

class Tree extends Module {
  readonly gain: Tensor;
  readonly leaf: Leaf;
  constructor(width = 3) {
    super();
    this.gain = this.parameter('ca.mat_q', [1, 2], constant(0.25));
    this.leaf = this.child('block_chunks.0.module.1', new Leaf(width));
    this.child('other', new Leaf(2));
  }
  protected override optionOf(name: string, _missing: boolean): string | undefined {
    return name.endsWith('weight') ? 'width' : undefined;
  }
}

function state(width = 3): Map<string, HostTensor> {
  const entries: [string, number[]][] = [
    ['ca.mat_q', [1, 2]],
    ['block_chunks.0.module.1.weight', [width, 2]],
    ['block_chunks.0.module.1.zero_k_bias', [width]],
    ['other.weight', [2, 2]],
    ['other.zero_k_bias', [2]],
  ];
  return new Map(
    entries.map(([name, shape], i) => [
      name,
      { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, j) => i + j / 8) },
    ]),
  );
}

describe('module', () => {
  it('knows its names and shapes before it has memory', () => {
    const device = Device.create();
    const tree = placed({ device }, () => new Tree());
    assert.equal(device.stats().liveTensors, 0);
    assert.deepEqual(
      [...tree.stateShapes()],
      [...state()].map(([name, { shape }]) => [name, shape]),
    );
    assert.deepEqual(
      [...tree.namedParameters('net.')].map(([name]) => name),
      ['net.ca.mat_q', 'net.block_chunks.0.module.1.weight', 'net.other.weight'],
    );
    assert.equal(tree.parameterCount(), 2 + 6 + 4);
    assert.throws(() => scale(tree.gain, 2), { code: 'INVALID_ARGUMENT', message: /initialize/ });
    device.close();
  });

  it('returns the state it was given and releases it', async () => {
    const device = Device.create();
    const tree = placed({ device }, () => new Tree()).load(state());
    assert.deepEqual(await tree.stateDict(), state());
    const other = placed({ device }, () => new Tree());
    await other.loadFrom({
      shapes: new Map([...state()].map(([name, { shape }]) => [name, shape])),
      read: async (name) => state().get(name)!.data,
    });
    assert.deepEqual(await other.stateDict(), state());
    for (const module of [tree, other, tree]) module.dispose();
    assert.equal(device.stats().liveTensors, 0);
    device.close();
  });

  it('refuses another network by the name of the tensor, before changing anything', async () => {
    using tree = new Tree().load(state());
    const cases: [Map<string, HostTensor>, object[], RegExp][] = [
      [
        state(4),
        [
          { tensor: 'block_chunks.0.module.1.weight', option: 'width', expected: '[3, 2]', found: '[4, 2]' },
          { tensor: 'block_chunks.0.module.1.zero_k_bias', option: null, expected: '[3]', found: '[4]' },
        ],
        /the weights .*module\.1\.weight" \(width\): expected \[3, 2\], found \[4, 2\]; .*Correct width/,
      ],
      [
        new Map([...state()].slice(1)),
        [{ tensor: 'ca.mat_q', option: null, expected: '[1, 2]', found: 'nothing' }],
        /"ca\.mat_q": expected \[1, 2\], found nothing/,
      ],
      [
        state().set('alien', { shape: [1], data: new Float32Array(1) }),
        [{ tensor: 'alien', option: null, expected: 'nothing', found: '[1]' }],
        /"alien": expected nothing, found \[1\]/,
      ],
    ];
    for (const [wrong, mismatches, message] of cases)
      assert.throws(
        () => tree.load(wrong),
        (error: unknown) => {
          assert.ok(error instanceof InfinityError && error.code === 'CHECKPOINT_CONFIG_MISMATCH');
          assert.deepEqual(error.fields.mismatches, mismatches);
          assert.match(error.message, message);
          return true;
        },
      );
    assert.deepEqual(await tree.stateDict(), state());
  });

  it('names the source, tensors of other types, and counts what it does not list', () => {
    using tree = new Tree();
    const shapes = new Map(Array.from({ length: 40 }, (_, i): [string, number[]] => [`x${i}`, []]));
    const others = new Map([['ca.mat_q', 'I32 [1, 2]']]);
    assert.throws(() => tree.matchState({ name: 'vae (a.pth)', shapes, others }), {
      message: /of vae \(a\.pth\) do not fit .*"ca\.mat_q": expected \[1, 2\], found I32 \[1, 2\].*and 39 more/,
    });
  });

  it('stops between two tensors when it is aborted', async () => {
    using tree = new Tree();
    const reason = new Error('enough');
    const controller = new AbortController();
    const shapes = new Map([...state()].map(([name, { shape }]) => [name, shape]));
    const read = async (name: string) => {
      controller.abort(reason);
      return state().get(name)!.data;
    };
    await assert.rejects(tree.loadFrom({ shapes, read }, { signal: controller.signal }), reason);
  });

  it('takes what a network allows: other names, other row counts, extra tensors', async () => {
    class Lenient extends Tree {
      protected override ignores(name: string): boolean {
        return name === 'alien';
      }
      protected override sourceName(name: string): string {
        return name === 'ca.mat_q' ? 'renamed' : name;
      }
      protected override adaptsRows(name: string): boolean {
        return name === 'block_chunks.0.module.1.weight' || name === 'block_chunks.0.module.1.zero_k_bias';
      }
    }
    for (const rows of [2, 5]) {
      const given = state(rows);
      given.set('renamed', given.get('ca.mat_q')!).set('alien', { shape: [1], data: new Float32Array(1) });
      given.delete('ca.mat_q');
      using tree = new Lenient().load(given);
      using fresh = new Lenient().initialize(0);
      const want = (await fresh.stateDict()).get('block_chunks.0.module.1.weight')!.data;
      want.set(given.get('block_chunks.0.module.1.weight')!.data.subarray(0, 6));
      const got = await tree.stateDict();
      assert.deepEqual(got.get('block_chunks.0.module.1.weight')!.data, want);
      assert.deepEqual(got.get('ca.mat_q'), given.get('renamed'));
    }
  });

  it('initial values depend on the seed and the name alone', async () => {
    using a = new Tree(64).initialize(7);
    using b = new Tree(64).initialize(7);
    using c = new Tree(64).initialize(8);
    const [first, second, third] = [await a.stateDict(), await b.stateDict(), await c.stateDict()];
    assert.deepEqual(first, second);
    const name = 'block_chunks.0.module.1.weight';
    assert.notDeepEqual(first.get(name), third.get(name));
    assert.notDeepEqual(first.get(name)!.data.slice(0, 4), first.get('other.weight')!.data);
    const weights = first.get(name)!.data;
    assert.ok(weights.every((w) => Math.abs(w) <= 1));
    const mean = weights.reduce((s, w) => s + w, 0) / weights.length;
    const std = Math.sqrt(weights.reduce((s, w) => s + (w - mean) ** 2, 0) / weights.length);
    // Standard deviation of a normal of 0.5 cut at two of them: 0.44; 128 draws scatter by about 0.03.
    assert.ok(Math.abs(mean) < 0.15 && Math.abs(std - 0.44) < 0.1, `mean ${mean}, std ${std}`);
  });
});
