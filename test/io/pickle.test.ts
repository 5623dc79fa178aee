import assert from 'node:assert/strict';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { PickleAttributes, PickleGlobal, type PickleHost, type PickleValue, parsePickle } from '../../lib/io/pickle.js';
import { type Pickled, pickled as p, pickleOf } from '../support/torch_file.js';

const globals = new Map([
  ['collections.OrderedDict', new PickleGlobal('collections.OrderedDict', () => new Map())],
  ['argparse.Namespace', new PickleGlobal('argparse.Namespace', () => new PickleAttributes())],
  ['torch.float32', new PickleGlobal('torch.float32')],
]);

function host(most = 1 << 20): PickleHost {
  let left = most;
  return {
    name: 'test.pkl',
    globals: (name) => globals.get(name),
    persistent: (id) => ['resolved', id],
    charge: (bytes) => {
      left -= bytes;
      if (left < 0) throw new InfinityError('CHECKPOINT_INVALID', 'too much');
    },
  };
}

const parse = (value: Pickled): PickleValue => parsePickle(pickleOf(value), host());
/** Opcodes by their letters, then STOP. */
const raw = (...parts: (string | number)[]): Buffer =>
  Buffer.concat([
    ...parts.map((part) => (typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part, 'latin1'))),
    Buffer.from('.'),
  ]);

describe('pickle', () => {
  it('reads numbers, strings, lists, tuples and dictionaries', () => {
    assert.deepEqual(
      parse(
        p.list(
          p.int(-7),
          p.float(0.1),
          p.none,
          p.bool(true),
          p.bool(false),
          p.string('日本 π'),
          p.tuple(),
          p.tuple(p.int(1)),
        ),
      ),
      [-7, 0.1, null, true, false, '日本 π', [], [1]],
    );
    assert.deepEqual(
      parse(p.dict({ a: p.int(1), __proto__: p.int(2), b: p.dict({}) })),
      new Map<string, PickleValue>([
        ['a', 1],
        ['b', new Map()],
      ]),
    );
    assert.deepEqual(parse(p.dict({ ['__proto__']: p.int(2) })), new Map([['__proto__', 2]]));
    assert.deepEqual(parsePickle(raw('K', 200, 'M', 0x34, 0x12, 0x86), host()), [200, 0x1234]);
  });

  it('reads long integers of any sign and size', () => {
    assert.equal(parse(p.long()), 0);
    assert.equal(parse(p.long(0xff)), -1);
    assert.equal(parse(p.long(0xff, 0)), 255);
    assert.equal(parse(p.long(0, 0, 0, 0, 0, 0, 0, 0x80)), -(2n ** 63n));
    assert.equal(parse(p.long(0, 0, 0, 0, 0, 0, 0, 0x80, 0)), 2n ** 63n);
  });

  it('reads protocol 4: frames, short strings, the memo in order, globals from the stack', () => {
    const short = (s: string) => Buffer.concat([Buffer.from([0x8c, s.length]), Buffer.from(s)]).toString('latin1');
    const frame = `${String.fromCharCode(0x95)}${'\0'.repeat(8)}`;
    const bytes = raw(
      0x80,
      4,
      frame,
      short('a'),
      0x94,
      short('argparse'),
      short('Namespace'),
      0x93,
      ')R',
      'h',
      0,
      0x87,
      'C',
      2,
      'xy',
      0x86,
    );
    assert.deepEqual(parsePickle(bytes, host()), [['a', new PickleAttributes(), 'a'], new Uint8Array([0x78, 0x79])]);
  });

  it('remembers what was made, also while it is being filled', () => {
    const shared = parse(p.list(p.put(3, p.list(p.int(1))), p.get(3))) as PickleValue[];
    assert.equal(shared[0], shared[1]);
    const circle = parsePickle(raw(']q', 0, 'h', 0, 'a'), host()) as PickleValue[];
    assert.equal(circle[0], circle);
  });

  it('gives attributes to objects that have them and to nothing else', () => {
    const namespace = p.call(p.global('argparse', 'Namespace'));
    assert.deepEqual([...(parse(p.build(namespace, p.dict({ lr: p.float(2) }))) as Map<string, unknown>)], [['lr', 2]]);
    assert.deepEqual(
      parse(p.build(p.orderedDict({ a: p.int(1) }), p.dict({ _metadata: p.none }))),
      new Map([['a', 1]]),
    );
  });

  it('asks the host what a persistent id means', () => {
    assert.deepEqual(parsePickle(raw('K', 5, 'Q'), host()), ['resolved', 5]);
  });

  for (const [module, name] of [
    ['os', 'system'],
    ['posix', 'getcwd'],
    ['builtins', 'eval'],
    ['__builtin__', 'getattr'],
    ['collections', 'OrderedDict.__init__'],
    ['toString', ''],
    ['', 'constructor'],
  ] as const) {
    it(`refuses the global ${module}.${name} by its name, called or not`, () => {
      const wanted = { code: 'UNSAFE_PICKLE', fields: { global: `${module}.${name}` } };
      assert.throws(() => parse(p.global(module, name)), wanted);
      assert.throws(() => parse(p.list(p.call(p.global(module, name), p.string('x')))), wanted);
      assert.throws(
        () => parsePickle(raw(p.string(module).toString('latin1'), p.string(name).toString('latin1'), 0x93), host()),
        wanted,
      );
    });
  }

  for (const [opcode, name] of [
    ['i', 'INST'],
    ['o', 'OBJ'],
    ['\x81', 'NEWOBJ'],
    ['\x92', 'NEWOBJ_EX'],
    ['\x82', 'EXT1'],
    ['P', 'PERSID'],
    ['\x97', 'NEXT_BUFFER'],
    ['\xfe', '0xfe'],
  ] as const) {
    it(`refuses the opcode ${name}`, () => {
      assert.throws(() => parsePickle(raw('(', opcode, '\n\n'), host()), {
        code: 'UNSAFE_PICKLE',
        fields: { opcode: name },
      });
    });
  }

  const malformed: [string, Buffer, RegExp][] = [
    ['nothing', Buffer.alloc(0), /cut off/],
    ['endless nesting', raw('('.repeat(50_000)), /deeply/],
    ['no value', raw(), /leaves 0/],
    ['two values', raw('NN'), /leaves 2/],
    ['an open mark', raw('N('), /leaves/],
    ['something after its end', Buffer.concat([raw('N'), raw('N')]), /follows/],
    ['an unknown protocol', raw(0x80, 9, 'N'), /protocol/],
    ['a string longer than the rest', raw('X', '\xff\xff\xff\xff'), /cut off/],
    ['bytes longer than the rest', raw('B', '\xff\xff\xff\x7f'), /cut off/],
    ['a string that is not UTF-8', raw('X', 1, '\0\0\0\xff'), /UTF-8/],
    ['a global without an end', raw('cposix'), /cut off/],
    ['a global with an endless name', raw(`c${'a'.repeat(5000)}\n\n`), /too long/],
    ['an empty stack', raw('R'), /empty/],
    ['a tuple of what is not there', raw('N', 0x86), /empty/],
    ['an entry from under a mark', raw('N(', 0x85), /empty/],
    ['an end of a tuple that never began', raw('t'), /mark/],
    ['an unknown place of the memo', raw('h', 7), /memo/],
    ['a call of a number', raw('K', 1, ')R'), /no function/],
    ['a call of a name', Buffer.concat([p.global('torch', 'float32'), raw(')R')]), /no function/],
    ['a call without a tuple', Buffer.concat([p.global('collections', 'OrderedDict'), raw('NR')]), /tuple/],
    ['an item for a number', raw('K', 1, 'Na'), /no list/],
    ['an entry for a list', raw(']NNs'), /no dictionary/],
    ['a key without a value', raw('}(Nu'), /no value/],
    ['a list for a key', raw('}]Ns'), /plain/],
  ];
  for (const [title, bytes, message] of malformed) {
    it(`refuses ${title}`, () => {
      assert.throws(() => parsePickle(bytes, host()), { code: 'CHECKPOINT_INVALID', message });
    });
  }

  it('charges for what it makes, so that a short pickle cannot become a large object', () => {
    for (const bomb of [']'.repeat(5000), '}'.repeat(5000), 'N'.repeat(50_000), `]q\0(${'h\0'.repeat(20_000)}e`])
      assert.throws(() => parsePickle(raw(bomb), host(100_000)), { message: /too much/ }, bomb.slice(0, 8));
    const growing = `${']q\0'}${'N'.repeat(1000)}${'h\0b'.repeat(1000)}`;
    assert.throws(() => parsePickle(raw(growing), host(10_000)), { code: 'CHECKPOINT_INVALID' });
  });

  it('survives arbitrary and altered bytes', () => {
    const good = pickleOf(
      p.dict({ a: p.list(p.int(1), p.float(2)), b: p.orderedDict({ c: p.put(1, p.string('x')) }), d: p.get(1) }),
    );
    const survives = (bytes: Uint8Array) => {
      try {
        parsePickle(bytes, host());
      } catch (error) {
        assert.ok(
          error instanceof InfinityError && /^(CHECKPOINT_INVALID|UNSAFE_PICKLE)$/.test(error.code),
          String(error),
        );
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), survives), { numRuns: 500 });
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), (at, byte) => {
        const bytes = Buffer.from(good);
        bytes[at] = byte;
        survives(bytes);
      }),
      { numRuns: 500 },
    );
  });
});
