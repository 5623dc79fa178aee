import assert from 'node:assert/strict';
import fc from 'fast-check';
import { fromFloat32, type TensorData, type TensorDType, toFloat32, toFloat64 } from '../../lib/io/tensor_data.js';

function tensor(dtype: TensorDType, array: ArrayBufferView, count: number, offset = 0): TensorData {
  const data = new Uint8Array(array.byteLength + offset);
  data.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), offset);
  return { dtype, shape: [count], data: data.subarray(offset) };
}

const halves = (dtype: 'F16' | 'BF16', ...bits: number[]) => tensor(dtype, Uint16Array.from(bits), bits.length);

describe('tensor data', () => {
  it('reads every numeric type', () => {
    const read = (td: TensorData) => [...toFloat64(td)];
    assert.deepEqual(read(tensor('F64', Float64Array.of(1e300, -0.1), 2)), [1e300, -0.1]);
    assert.deepEqual(read(tensor('I64', BigInt64Array.of(-5n, 7n), 2)), [-5, 7]);
    assert.deepEqual(read(tensor('U64', BigUint64Array.of(7n), 1)), [7]);
    assert.deepEqual(read(tensor('I32', Int32Array.of(-1), 1)), [-1]);
    assert.deepEqual(read(tensor('U32', Uint32Array.of(2 ** 32 - 1), 1)), [2 ** 32 - 1]);
    assert.deepEqual(read(tensor('I16', Int16Array.of(-300), 1)), [-300]);
    assert.deepEqual(read(tensor('U16', Uint16Array.of(65535), 1)), [65535]);
    assert.deepEqual(read(tensor('I8', Int8Array.of(-8), 1)), [-8]);
    assert.deepEqual(read(tensor('U8', Uint8Array.of(200), 1)), [200]);
    assert.deepEqual(read(tensor('BOOL', Uint8Array.of(0, 1), 2)), [0, 1]);
    assert.throws(() => toFloat32({ dtype: 'F8_E4M3', shape: [1], data: new Uint8Array(1) }), {
      code: 'UNSUPPORTED_DTYPE',
    });
  });

  it('reads half precision: normal, subnormal, special', () => {
    const f16 = [...toFloat32(halves('F16', 0x3c00, 0xc000, 0x0001, 0x8000, 0x7c00, 0xfc00, 0x7bff, 0x03ff))];
    assert.deepEqual(f16, [1, -2, 2 ** -24, -0, Infinity, -Infinity, 65504, 1023 * 2 ** -24]);
    assert.ok(Number.isNaN(toFloat32(halves('F16', 0x7e00))[0]));
    assert.deepEqual([...toFloat32(halves('BF16', 0x3f80, 0xc000, 0x0001, 0x7f80))], [1, -2, 2 ** -133, Infinity]);
    assert.deepEqual([...toFloat64(halves('BF16', 0x3f80, 0xc000))], [1, -2]);
    assert.ok(Number.isNaN(toFloat32(halves('BF16', 0x7fc0))[0]));
    assert.deepEqual([...toFloat32(tensor('BF16', Uint16Array.of(0x3f80, 0xc000), 2, 1))], [1, -2]);
  });

  it('F32 at any offset gives the same values', () => {
    const values = Float32Array.of(1.5, -2.25, 3e-40);
    for (let offset = 0; offset < 8; offset++) {
      const td = tensor('F32', values, 3, offset);
      assert.deepEqual(toFloat32(td), values);
      const { buffer, byteOffset, byteLength } = td.data;
      assert.deepEqual(toFloat32({ ...td, data: Buffer.from(buffer, byteOffset, byteLength) }), values);
    }
  });

  it('bf16 rounds to the nearest, ties to even, and keeps NaN', () => {
    const bits = (x: number) => new Uint16Array(fromFloat32(Float32Array.of(x), [1], 'BF16').data.slice().buffer)[0];
    assert.equal(bits(1), 0x3f80);
    assert.equal(bits(1 + 2 ** -8), 0x3f80);
    assert.equal(bits(1 + 3 * 2 ** -8), 0x3f82);
    assert.equal(bits(1 + 2 ** -8 + 2 ** -20), 0x3f81);
    assert.equal(bits(3.4028235e38), 0x7f80);
    assert.equal(bits(-Infinity), 0xff80);
    assert.equal(bits(Number.NaN) & 0x7fff, 0x7fc0);
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 100), max: 2 ** 100 }), (x) => {
        const [y] = toFloat32(fromFloat32(Float32Array.of(x), [1], 'BF16'));
        assert.ok(Math.abs(y - x) <= Math.max(Math.abs(x) * 2 ** -8, 2 ** -134));
        const [again] = toFloat32(fromFloat32(Float32Array.of(y), [1], 'BF16'));
        assert.equal(again, y);
      }),
    );
  });

  it('a shape that does not fit is refused', () => {
    assert.throws(() => fromFloat32(new Float32Array(3), [2, 2]), { code: 'INVALID_SHAPE' });
  });
});
