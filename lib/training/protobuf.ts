/** The little of the protocol-buffer wire format that event files need. Source: protobuf.dev, "Encoding". */

/** A message, or a part of one: fields follow each other. */
export type Field = Uint8Array;

const Wire = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Buffer.from([...bytes, rest]);
}

const tag = (field: number, wire: number): Buffer => varint(field * 8 + wire);

/** An int32, int64 or enumeration; not negative. */
export function integerField(field: number, value: number): Field {
  return Buffer.concat([tag(field, Wire.varint), varint(value)]);
}

export function doubleField(field: number, value: number): Field {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([tag(field, Wire.fixed64), bytes]);
}

export function floatField(field: number, value: number): Field {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([tag(field, Wire.fixed32), bytes]);
}

/** A string, bytes, or a message given by its fields. */
export function bytesField(field: number, ...parts: readonly (Uint8Array | string)[]): Field {
  const content = Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'utf8') : part)));
  return Buffer.concat([tag(field, Wire.bytes), varint(content.length), content]);
}
