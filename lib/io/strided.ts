/** Strided views of elements: what torch stores when a tensor was transposed, cut or kept channels last. */

export interface View {
  readonly shape: readonly number[];
  /** In elements, not negative. */
  readonly strides: readonly number[];
}

/** Whether the elements of a view lie one after the other in row-major order. */
export function contiguous({ shape, strides }: View): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] === 0) return true;
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i]!;
  }
  return true;
}

const UNSIGNED = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array } as const;

/**
 * The elements of a view in row-major order.
 * @param bytes the storage from the first element of the view to its last
 * @param width bytes of one element
 */
export function gather(bytes: Uint8Array, view: View, width: 1 | 2 | 4 | 8): Uint8Array {
  // An element of eight bytes is moved as two halves: an innermost axis more.
  const halves = width === 8;
  const shape = halves ? [...view.shape, 2] : view.shape;
  const strides = halves ? [...view.strides.map((stride) => 2 * stride), 1] : view.strides;
  const Elements = UNSIGNED[halves ? 4 : width];
  const { BYTES_PER_ELEMENT: unit } = Elements;
  const aligned = bytes.byteOffset % unit === 0 ? bytes : Uint8Array.from(bytes);
  const from = new Elements(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / unit);
  const count = shape.reduce((n, extent) => n * extent, 1);
  const to = new Elements(count);
  const rank = shape.length;
  const index = new Array<number>(rank).fill(0);
  const [inner = 1, step = 1] = [shape[rank - 1], strides[rank - 1]];
  let row = 0;
  for (let at = 0; at < count; ) {
    for (let i = 0, place = row; i < inner; i++, place += step) to[at++] = from[place]!;
    for (let axis = rank - 2; axis >= 0; axis--) {
      row += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      row -= strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  return new Uint8Array(to.buffer, to.byteOffset, to.byteLength);
}
