/**
 * A pickle machine that makes data and nothing else: opcodes and globals come from allow-lists, a global stands for a function
 * of ours, and no name is ever looked up anywhere. Time and memory are linear in the input. Source: Python, Lib/pickletools.py;
 * the selection of opcodes is that of torch/_weights_only_unpickler.py and what protocols 3 and 4 use for the same values.
 */
import { InfinityError } from '../errors.js';

/** Something that a global of the host stands for or makes; opaque to the machine. */
export abstract class PickleObject {
  // Without a member of its own, every object would pass for one.
  declare private readonly opaque: undefined;
}

/** An allowed global. `call` is what applying it to arguments makes; without it the global is a mere name. */
export class PickleGlobal extends PickleObject {
  constructor(
    readonly name: string,
    readonly call?: (args: readonly PickleValue[]) => PickleValue,
  ) {
    super();
  }
}

export type PickleKey = string | number | bigint | boolean | null;
export type PickleDict = ReadonlyMap<PickleKey, PickleValue>;
/** Lists and tuples are both arrays. */
export type PickleValue = PickleKey | Uint8Array | PickleObject | readonly PickleValue[] | PickleDict;

/** An object with attributes, as a dictionary of them. */
export class PickleAttributes extends Map<PickleKey, PickleValue> {}

export interface PickleHost {
  /** What to call the pickle in messages. */
  readonly name: string;
  /** Allowed globals by "module.name". */
  readonly globals: (name: string) => PickleGlobal | undefined;
  /** Resolves a persistent id. */
  readonly persistent: (id: PickleValue) => PickleValue;
  /** Called with the approximate bytes that a value takes, before it is made; throws when they are too many. */
  readonly charge: (bytes: number) => void;
}

/** A value, and the bytes that its pickle takes. */
export interface ReadPickle {
  readonly value: PickleValue;
  readonly bytes: number;
}

export function invalidPickle(name: string, what: string, value: unknown = name): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${name} is not a valid pickle: ${what}.`, {
    value,
    cure: 'Download or write the file again.',
  });
}

/** The bytes end before the pickle does. */
class CutOff extends Error {}

function unsafe(name: string, kind: 'global' | 'opcode', what: string): InfinityError {
  return new InfinityError('UNSAFE_PICKLE', `${name} uses the ${kind} ${what}, which is not allowed in a checkpoint.`, {
    value: what,
    fields: { [kind]: what },
    cure: 'Save the tensors alone (torch.save of a state_dict), or convert the file to safetensors where it was made.',
  });
}

/** Opcodes that call or look up things, by their names; every other opcode is named by its number. */
const REFUSED: Readonly<Record<number, string>> = {
  105: 'INST',
  111: 'OBJ',
  80: 'PERSID',
  129: 'NEWOBJ',
  146: 'NEWOBJ_EX',
  130: 'EXT1',
  131: 'EXT2',
  132: 'EXT4',
  151: 'NEXT_BUFFER',
};

const MAX_GLOBAL_NAME = 256;
const LINE_FEED = 0x0a;
const STOP = 0x2e;
/** Marks that are open at once: one for each level of nesting. */
const MAX_MARKS = 1000;
/** The newest protocol. */
const MAX_PROTOCOL = 5;

/** An entry of a dictionary in memory, roughly. */
export const PAIR_BYTES = 96;
/** Rough sizes of what an engine makes, with what it throws away while its tables grow. */
const COST = { op: 8, array: 48, item: 16, dict: 200, pair: PAIR_BYTES, string: 32, float: 24, memo: 80 } as const;

class Machine {
  private at = 0;
  private readonly view: DataView;
  private readonly stack: PickleValue[] = [];
  /** Heights of the stack at open marks. */
  private readonly marks: number[] = [];
  private readonly memo = new Map<number, PickleValue>();
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true });

  constructor(
    private readonly bytes: Uint8Array,
    private readonly host: PickleHost,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  private refuse(what: string): never {
    throw invalidPickle(this.host.name, what);
  }

  /** Moves past `length` bytes that must be there. */
  private take(length: number): number {
    const from = this.at;
    if (length > this.bytes.byteLength - from) throw new CutOff();
    this.at = from + length;
    return from;
  }

  private byte(): number {
    return this.bytes[this.take(1)]!;
  }

  private uint32(): number {
    return this.view.getUint32(this.take(4), true);
  }

  private push(value: PickleValue): void {
    this.stack.push(value);
  }

  private pop(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.refuse('its stack runs empty');
    return this.stack.pop()!;
  }

  private top(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.refuse('its stack runs empty');
    return this.stack.at(-1)!;
  }

  private mark(): void {
    if (this.marks.length === MAX_MARKS) this.refuse('it nests too deeply');
    this.marks.push(this.stack.length);
  }

  private float(): void {
    this.host.charge(COST.float);
    this.push(this.view.getFloat64(this.take(8), false));
  }

  /** Everything above the last mark. */
  private popMark(): PickleValue[] {
    const mark = this.marks.pop();
    if (mark === undefined) this.refuse('a mark is missing');
    return this.stack.splice(mark);
  }

  private popSome(count: number): PickleValue[] {
    if (this.stack.length - count < (this.marks.at(-1) ?? 0)) this.refuse('its stack runs empty');
    return this.stack.splice(this.stack.length - count);
  }

  private protocol(version: number): void {
    if (version > MAX_PROTOCOL) this.refuse(`its protocol is ${version}`);
  }

  private dictionary(): void {
    this.host.charge(COST.dict);
    this.push(new Map());
  }

  private array(items: PickleValue[]): void {
    this.host.charge(COST.array + COST.item * items.length);
    this.push(items);
  }

  private string(length: number): void {
    const from = this.take(length);
    this.host.charge(COST.string + 2 * length);
    this.push(this.decode(from, this.at));
  }

  private decode(from: number, to: number): string {
    try {
      return this.utf8.decode(this.bytes.subarray(from, to));
    } catch {
      return this.refuse('a string is not UTF-8');
    }
  }

  private binary(length: number): void {
    const from = this.take(length);
    this.host.charge(COST.array + length);
    this.push(Uint8Array.from(this.bytes.subarray(from, this.at)));
  }

  /** A little-endian two's complement number of any length up to 255 bytes. */
  private long(length: number): void {
    const from = this.take(length);
    this.host.charge(COST.string + length);
    let value = 0n;
    for (let i = from + length - 1; i >= from; i--) value = (value << 8n) | BigInt(this.bytes[i]!);
    value = BigInt.asIntN(8 * length, value);
    this.push(Number.isSafeInteger(Number(value)) ? Number(value) : value);
  }

  private line(): string {
    const end = this.bytes.subarray(this.at, this.at + MAX_GLOBAL_NAME).indexOf(LINE_FEED);
    // Without its end the name is as long as it may be, or the bytes are at theirs.
    const from = this.take(end < 0 ? MAX_GLOBAL_NAME : end + 1);
    if (end < 0) this.refuse('the name of a global is too long');
    return this.decode(from, from + end);
  }

  private global([module, name]: readonly PickleValue[]): void {
    const known = typeof module === 'string' && typeof name === 'string';
    const global = known ? this.host.globals(`${module}.${name}`) : undefined;
    if (!global) throw unsafe(this.host.name, 'global', known ? `${module}.${name}`.slice(0, MAX_GLOBAL_NAME) : '?');
    this.push(global);
  }

  private reduce(): void {
    const [args, callee] = [this.pop(), this.pop()];
    if (!(callee instanceof PickleGlobal) || !callee.call) this.refuse('something is called that is no function');
    if (!Array.isArray(args)) this.refuse(`${callee.name} is called without a tuple of arguments`);
    this.host.charge(COST.dict);
    this.push(callee.call(args));
  }

  /** Attributes of an object. Those of a dictionary or tensor (`_metadata` of a state dict) say nothing about its content. */
  private build(): void {
    const [state, target] = [this.pop(), this.top()];
    if (!(target instanceof PickleAttributes) || !(state instanceof Map)) return;
    this.host.charge(COST.pair * state.size);
    for (const [key, value] of state) target.set(key, value);
  }

  private remember(index: number): void {
    const value = this.top();
    if (!this.memo.has(index)) this.host.charge(COST.memo);
    this.memo.set(index, value);
  }

  private recall(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) this.refuse(`its memo has no entry ${index}`);
    this.push(value);
  }

  private append(items: readonly PickleValue[]): void {
    const list = this.top();
    if (!Array.isArray(list)) this.refuse('something is appended to what is no list');
    this.host.charge(COST.item * items.length);
    for (const item of items) list.push(item);
  }

  private setItems(items: readonly PickleValue[]): void {
    const dict = this.top();
    if (!(dict instanceof Map)) this.refuse('an entry is set in what is no dictionary');
    if (items.length % 2 !== 0) this.refuse('a key has no value');
    this.host.charge(COST.pair * (items.length / 2));
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i]!;
      if (typeof key === 'object' && key !== null) this.refuse('a key of a dictionary is no plain value');
      dict.set(key, items[i + 1]!);
    }
  }

  /** The opcodes that are allowed. */
  private static readonly steps: Readonly<Record<number, (m: Machine) => void>> = {
    128: (m) => m.protocol(m.byte()), // PROTO
    149: (m) => m.take(8), // FRAME
    40: (m) => m.mark(), // MARK
    78: (m) => m.push(null), // NONE
    136: (m) => m.push(true), // NEWTRUE
    137: (m) => m.push(false), // NEWFALSE
    74: (m) => m.push(m.view.getInt32(m.take(4), true)), // BININT
    75: (m) => m.push(m.byte()), // BININT1
    77: (m) => m.push(m.view.getUint16(m.take(2), true)), // BININT2
    138: (m) => m.long(m.byte()), // LONG1
    71: (m) => m.float(), // BINFLOAT
    88: (m) => m.string(m.uint32()), // BINUNICODE
    140: (m) => m.string(m.byte()), // SHORT_BINUNICODE
    85: (m) => m.string(m.byte()), // SHORT_BINSTRING
    84: (m) => m.string(m.uint32()), // BINSTRING
    66: (m) => m.binary(m.uint32()), // BINBYTES
    67: (m) => m.binary(m.byte()), // SHORT_BINBYTES
    125: (m) => m.dictionary(), // EMPTY_DICT
    93: (m) => m.array([]), // EMPTY_LIST
    41: (m) => m.array([]), // EMPTY_TUPLE
    116: (m) => m.array(m.popMark()), // TUPLE
    133: (m) => m.array(m.popSome(1)), // TUPLE1
    134: (m) => m.array(m.popSome(2)), // TUPLE2
    135: (m) => m.array(m.popSome(3)), // TUPLE3
    97: (m) => m.append(m.popSome(1)), // APPEND
    101: (m) => m.append(m.popMark()), // APPENDS
    115: (m) => m.setItems(m.popSome(2)), // SETITEM
    117: (m) => m.setItems(m.popMark()), // SETITEMS
    113: (m) => m.remember(m.byte()), // BINPUT
    114: (m) => m.remember(m.uint32()), // LONG_BINPUT
    148: (m) => m.remember(m.memo.size), // MEMOIZE
    104: (m) => m.recall(m.byte()), // BINGET
    106: (m) => m.recall(m.uint32()), // LONG_BINGET
    99: (m) => m.global([m.line(), m.line()]), // GLOBAL
    147: (m) => m.global(m.popSome(2)), // STACK_GLOBAL
    82: (m) => m.reduce(), // REDUCE
    98: (m) => m.build(), // BUILD
    81: (m) => m.push(m.host.persistent(m.pop())), // BINPERSID
  };

  run(): ReadPickle {
    for (;;) {
      const op = this.byte();
      this.host.charge(COST.op);
      if (op === STOP) break;
      const step = Machine.steps[op];
      if (!step) throw unsafe(this.host.name, 'opcode', REFUSED[op] ?? `0x${op.toString(16).padStart(2, '0')}`);
      step(this);
    }
    if (this.stack.length !== 1 || this.marks.length > 0) this.refuse(`it leaves ${this.stack.length} values`);
    return { value: this.stack[0]!, bytes: this.at };
  }
}

/**
 * The first pickle of these bytes; nothing when they end before it does.
 * @throws InfinityError UNSAFE_PICKLE naming the global or opcode that is not allowed, CHECKPOINT_INVALID for a malformed
 *   pickle, and whatever the host throws
 */
export function readPickle(bytes: Uint8Array, host: PickleHost): ReadPickle | undefined {
  try {
    return new Machine(bytes, host).run();
  } catch (error) {
    if (error instanceof CutOff) return undefined;
    throw error;
  }
}

/**
 * The value that a pickle describes, which takes all of these bytes.
 * @throws InfinityError as `readPickle`, and CHECKPOINT_INVALID when the pickle is cut off or something follows it
 */
export function parsePickle(bytes: Uint8Array, host: PickleHost): PickleValue {
  const read = readPickle(bytes, host);
  if (!read) throw invalidPickle(host.name, 'it is cut off');
  if (read.bytes !== bytes.byteLength) throw invalidPickle(host.name, 'something follows its end');
  return read.value;
}
