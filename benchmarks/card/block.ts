/** One block of a 2B model at every scale of a guided picture, its keys and values cached; in bf16. */
import { placed } from '../../lib/nn/module.js';
import { disposeStream } from '../../lib/nn/stream.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { scaleOffsets, scaleTokens } from '../../lib/tokenizer/schedule.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { KvCache, kvExtents } from '../../lib/transformer/kv_cache.js';
import { type CardOptions, milliseconds, type Row, timeInTurns } from '../harness.js';
import { casesOf, modelConfig, squareSchedule } from './cases.js';
import { againstFloor, launchesAndPeak, openCard, randomise, randomOn } from './measure.js';
import { blockWork, ROWS } from './picture_work.js';

/** Scales run in their order, so that every scale finds the cache filled; the weights stay in no cache between two calls of a large block. */
export async function* block({ filter = '', rounds, short = false }: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(short);
  const { device, ceilings, rows } = await openCard(cases);
  yield* rows;
  const schedule = squareSchedule(cases.block.scales);
  const config = { ...modelConfig(cases, cases.block.scales), depth: 1, block_chunks: 1 };
  const model = placed({ device, dtype: 'bf16' }, () => new InfinityTransformer(config));
  randomise(model);
  model.freeze('bf16');
  const [only] = model.blocks;
  const { embed_dim: C } = config;
  const offsets = scaleOffsets(schedule);
  const cache = new KvCache({ ...kvExtents(config, schedule), rows: ROWS }, { device, dtype: 'bf16' });
  const tokens = cases.text_tokens;
  const ranges = Array.from({ length: ROWS }, (_, b) => [b * tokens, (b + 1) * tokens]).flat();
  const textRange = Tensor.from(Int32Array.from(ranges), [ROWS, 1, 2], 'i32', device);
  const cond = randomOn(device, [6, ROWS, 1, C], 'bf16', 0.1);
  const known = scope(() => only!.condition(cond, only!.textKeysValues(randomOn(device, [ROWS * tokens, C]))));
  const rope = model.rope(schedule);
  for (const [k, scale] of schedule.entries()) {
    const n = scaleTokens(scale);
    const x_RLC = randomOn(device, [ROWS, n, C]);
    const ctx = { rope, ropeStart: offsets[k]!, memory: cache.memory(0, offsets[k]!), textRange };
    // As between blocks: the one before leaves what the first norm needs, and this one does for the next.
    const entered = scope(() => only!.forward({ x_BLC: x_RLC }, known, ctx, known.folded?.sa));
    const call = () => scope(() => only!.forward(entered, known, ctx, known.folded?.sa).x_BLC);
    const once = () =>
      scope(() => {
        call();
      });
    const work = blockWork({ width: C, rows: ROWS, queries: n, keys: offsets[k + 1]!, text: tokens });
    const name = `block, ${ROWS} x ${n} tokens`;
    if (name.includes(filter)) {
      const row = await launchesAndPeak(device, once);
      const [time] = await timeInTurns([{ device, call }], rounds ?? cases.rounds);
      yield { name, ...milliseconds(time!, 4), ...row, ...againstFloor(work, time!, ceilings) };
    }
    disposeStream(entered);
    x_RLC.dispose();
  }
  device.close();
}
