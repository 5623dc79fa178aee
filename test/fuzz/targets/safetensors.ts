import assert from 'node:assert/strict';
import { parseSafetensors, serializeSafetensors } from '../../../lib/io/safetensors.js';
import { DTYPE_BYTES, elementCount, type TensorData, type TensorDType } from '../../../lib/io/tensor_data.js';
import { mutateJson } from '../mutate.js';
import type { FuzzTarget } from '../target.js';

const LENGTH_BYTES = 8;

function tensor(dtype: TensorDType, ...shape: number[]): TensorData {
  const data = new Uint8Array(elementCount(shape) * DTYPE_BYTES[dtype]);
  return { dtype, shape, data: data.map((_, i) => (i * 37) & 0xff) };
}

function withHeader(header: Uint8Array, data: Uint8Array): Uint8Array {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(header.byteLength));
  return Buffer.concat([length, header, data]);
}

function split(file: Uint8Array): [header: Uint8Array, data: Uint8Array] {
  const bytes = Buffer.from(file);
  const length = bytes.length >= LENGTH_BYTES ? Number(bytes.readBigUInt64LE()) : 0;
  const end = Math.min(bytes.length, LENGTH_BYTES + length);
  return [bytes.subarray(LENGTH_BYTES, end), bytes.subarray(end)];
}

export const safetensors: FuzzTarget = {
  name: 'safetensors',
  seeds() {
    const all = (Object.keys(DTYPE_BYTES) as TensorDType[]).map((dtype) => [dtype, tensor(dtype, 2, 3)] as const);
    const many = Array.from({ length: 100 }, (_, i) => [`blocks.${i}.weight`, tensor('BF16', i % 4, 5)] as const);
    return [
      serializeSafetensors(new Map(all), { format: 'pt' }),
      serializeSafetensors(new Map(many)),
      serializeSafetensors(new Map([['größe "x"\n', tensor('F32')]])),
      serializeSafetensors(new Map()),
    ];
  },
  read(file) {
    const tensors = parseSafetensors(file);
    for (const { dtype, shape, data } of tensors.values())
      assert.equal(data.byteLength, elementCount(shape) * DTYPE_BYTES[dtype]);
    const data = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
    assert.ok(data < file.byteLength);
    return () => assert.deepEqual(parseSafetensors(serializeSafetensors(tensors)).size, tensors.size);
  },
  mutate(random, file) {
    const [header, data] = split(file);
    return withHeader(mutateJson(random, header), data);
  },
  /** The length of the header, as far as its last brace. */
  repair(file) {
    const body = Buffer.from(file.subarray(LENGTH_BYTES));
    const end = body.lastIndexOf('}') + 1;
    return withHeader(body.subarray(0, end), body.subarray(end));
  },
};
