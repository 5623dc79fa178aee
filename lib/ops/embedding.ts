/** Rows of a table, picked by ids. */
import type { Tensor } from '../tensor.js';
import { checkShapes, isFloat } from './check.js';
import { Op } from './generated.js';
import { differentiable } from './record.js';
import { like, run, shaped } from './run.js';

/**
 * table_VC[ids]: ids i32 [...] -> [..., C]. An id outside [0, V) rejects the next read with INVALID_ARGUMENT. The gradient
 * of the table adds up the occurrences of a row in the order of the ids.
 */
export function embedding(table_VC: Tensor, ids: Tensor): Tensor {
  const ok = table_VC.rank === 2 && ids.dtype === 'i32' && isFloat(table_VC);
  checkShapes('embedding', ok, 'a float table [V, C] and ids i32 [...]', table_VC, ids);
  const [y] = run(Op.embedding, [table_VC, ids], [shaped(table_VC, [...ids.shape, table_VC.shape[1]!])]);
  differentiable('embedding', [table_VC], [y!], [ids], ([gy]) =>
    run(Op.embeddingBackward, [gy!, ids], [like(table_VC)]),
  );
  return y!;
}
