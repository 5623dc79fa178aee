/** What a drawing reads besides weights: prompts, keys of the draws, choices. Written anew for every request that runs recorded commands. */
import { choiceRows, type DrawKey, drawKeys, keyRows, type SampleChoice } from '../ops/bits.js';
import { fill, writeSlice } from '../ops/shape.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import type { InfinityTransformer } from './infinity.js';
import { inBuffer, rangeRows, type TextRows } from './text.js';

/** A request's numbers, on the host. */
export interface DrawingValues {
  /** Prompts of all run samples. */
  readonly text: TextRows;
  readonly images: readonly DrawKey[];
  /** One a scale. */
  readonly choices: readonly SampleChoice[];
}

/** The same on the device. */
export interface DrawingInputs {
  readonly text: TextRows;
  /** i32 [rows, 1, 2]; see `TextConditioner.range`. */
  readonly textRange: Tensor;
  /** i32 [B, 3]; see `drawKeys`. */
  readonly keys: Tensor;
  /** f32 [K, 3]; see `choiceRows`. */
  readonly choices: Tensor;
  /** The embedding of every scale, [K, C]. */
  readonly levels_KC: Tensor;
}

/** Of one request, on the device: all but the text belongs to the caller. */
export function drawingInputs(model: InfinityTransformer, { text, images, choices }: DrawingValues): DrawingInputs {
  const made = () => ({
    textRange: model.text.range(text),
    keys: drawKeys(images, model.device),
    choices: Tensor.from(choiceRows(choices), [choices.length, 3], 'f32', model.device),
    levels_KC: model.levelEmbed(choices.map((_, k) => k)),
  });
  return { text, ...unscoped(() => scope(made)) };
}

/** Text rows of a buffer that serves prompts of similar length: few recordings for many prompts. */
const ROW_STEP = 64;
const bucket = (rows: number): number => Math.ceil(rows / ROW_STEP) * ROW_STEP;

/** Extents of the buffers that a request's texts fit. */
export function textExtents({ kv_NCt, learned }: TextRows, longest: number): { prompts: number; learned: number } {
  return { prompts: bucket(kv_NCt.shape[0]!), learned: Math.min(longest, bucket(learned)) };
}

/** Inputs that stay where they are while requests come and go. */
export class InputBuffers implements DrawingInputs {
  readonly text: TextRows;
  readonly textRange: Tensor;
  readonly keys: Tensor;
  readonly choices: Tensor;
  readonly levels_KC: Tensor;

  constructor(model: InfinityTransformer, values: DrawingValues) {
    const { kv_NCt } = values.text;
    const { prompts, learned } = textExtents(values.text, model.text.longest);
    // Rows behind the prompts are read by nobody, but projected with the others.
    const rows = unscoped(() => fill([prompts, kv_NCt.shape[1]!], 0, kv_NCt.dtype, model.device));
    const text = inBuffer(values.text, rows, learned);
    let made: DrawingInputs;
    try {
      made = drawingInputs(model, { ...values, text });
    } catch (error) {
      rows.dispose();
      throw error;
    }
    const { textRange, keys, choices, levels_KC } = made;
    [this.text, this.textRange, this.keys, this.choices, this.levels_KC] = [text, textRange, keys, choices, levels_KC];
  }

  /** Another request with the same extents, in the order of the queue. */
  write({ text, images, choices }: DrawingValues): void {
    writeSlice(this.text.kv_NCt, text.kv_NCt, 0, 0);
    this.textRange.write(rangeRows(inBuffer(text, this.text.kv_NCt, this.text.learned)));
    this.keys.write(keyRows(images));
    this.choices.write(choiceRows(choices));
  }

  dispose(): void {
    for (const t of [this.text.kv_NCt, this.textRange, this.keys, this.choices, this.levels_KC]) t.dispose();
  }
}
