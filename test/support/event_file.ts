/** Reads TensorBoard's event files: a parser that knows nothing of the writer, with a checksum computed bit by bit. */
import assert from 'node:assert/strict';

/** Fields of a message by number: integers, floats and the bytes of whatever has a length. */
export type Message = ReadonlyMap<number, readonly (number | Buffer)[]>;

/** CRC-32C as its definition says, a bit at a time. */
function checksum(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes)
    for (let bit = 0; bit < 8; bit++) {
      const low = (crc ^ (byte >>> bit)) & 1;
      crc = (crc >>> 1) ^ (low ? 0x82f63b78 : 0);
    }
  return ~crc >>> 0;
}

function unmasked(stored: number): number {
  const rotated = (stored - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

/** Splits a message into its fields. */
export function parseMessage(bytes: Buffer): Message {
  const fields = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const value = (wire: number): number | Buffer => {
    const begin = at;
    if (wire === 0) return varint();
    if (wire === 1) at += 8;
    if (wire === 1) return bytes.readDoubleLE(begin);
    if (wire === 5) at += 4;
    if (wire === 5) return bytes.readFloatLE(begin);
    assert.equal(wire, 2, 'a wire type of messages');
    const length = varint();
    at += length;
    assert.ok(at <= bytes.length, 'a field ends inside its message');
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = varint();
    const list = fields.get(tag >>> 3) ?? [];
    list.push(value(tag & 7));
    fields.set(tag >>> 3, list);
  }
  return fields;
}

/** The messages of an event file; a wrong checksum or a cut record fails. */
export function parseEvents(file: Buffer): Message[] {
  const events: Message[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    assert.equal(unmasked(file.readUInt32LE(at + 8)), checksum(file.subarray(at, at + 8)), 'checksum of the length');
    const data = file.subarray(at + 12, at + 12 + length);
    assert.equal(data.length, length, 'a whole record');
    assert.equal(unmasked(file.readUInt32LE(at + 12 + length)), checksum(data), 'checksum of the message');
    events.push(parseMessage(data));
    at += length + 16;
  }
  return events;
}

/** A field that is there once. */
export function only(message: Message, field: number): number | Buffer {
  const values = message.get(field) ?? [];
  assert.equal(values.length, 1, `field ${field}`);
  return values[0]!;
}

/** A field that is a message and there once. */
export function inner(message: Message, field: number): Message {
  return parseMessage(only(message, field) as Buffer);
}
