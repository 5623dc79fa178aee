/** Recorded drawings of a frozen network, kept for requests of the same form. */
import { isOutOfMemory } from '../errors.js';
import type { Submission } from '../submission.js';
import { dtypeBytes } from '../tensor.js';
import { type Drawing, RecordedDrawing } from './drawing.js';
import { type DrawingValues, textExtents } from './drawing_inputs.js';
import type { InfinityTransformer } from './infinity.js';
import { kvElements, kvExtents } from './kv_cache.js';
import type { DrawingForm } from './scale_steps.js';

/** Forms of a kind (recorded, seen once, too large) at most. A recording holds host memory too, thousands of commands and their graphs. */
const MOST_FORMS = 32;

interface Kept {
  readonly drawing: RecordedDrawing;
  readonly cacheBytes: number;
  busy: boolean;
}

function forgetOldest(forms: Set<string>): void {
  if (forms.size > MOST_FORMS) forms.delete(forms.values().next().value!);
}

/**
 * The second request of a form is recorded, later ones run what it left: a form that comes once costs nothing. While a recording
 * is in use, other requests of its form are submitted command by command. Those that were used last stay, within a share of the
 * device's memory, until somebody needs it.
 */
export class Recordings {
  /** By form, the least recently used first. */
  private readonly kept = new Map<string, Kept>();
  private readonly seen = new Set<string>();
  /** Forms whose recording does not fit: it takes more memory than commands that are submitted, and keeps it. */
  private readonly tooLarge = new Set<string>();
  private closed = false;

  /** @param share of the device's memory that recordings may take while nobody uses them */
  constructor(
    private readonly model: InfinityTransformer,
    private readonly share = 0.25,
  ) {
    model.device.reserves.add(this.drop);
  }

  /** A recorded drawing with this request's values, or null where the request is to be submitted command by command. */
  async take(form: DrawingForm, values: DrawingValues, submission: Submission): Promise<Drawing | null> {
    // What is computed of weights when recording starts stays as it is.
    if (this.closed || !this.model.frozen || form.guidance.mixesHidden) return null;
    const key = this.keyOf(form, values);
    if (this.kept.get(key)?.busy || this.tooLarge.has(key)) return null;
    if (!this.kept.has(key) && !(this.seenBefore(key) && (await this.record(key, form, values, submission))))
      return null;
    const kept = this.kept.get(key)!;
    // Once more behind all others: it is the one that was used last.
    this.kept.delete(key);
    this.kept.set(key, kept);
    kept.busy = true;
    try {
      await submission.part(() => kept.drawing.write(values));
    } catch (error) {
      this.release(key);
      throw error;
    }
    return kept.drawing;
  }

  /** Lets those go that nobody uses. @returns whether there were any */
  readonly drop = (): boolean => {
    const idle = [...this.kept].filter(([, { busy }]) => !busy);
    for (const [key] of idle) this.forget(key);
    return idle.length > 0;
  };

  /** Nothing is recorded any more; a drawing that is in use goes when its request has ended. */
  dispose(): void {
    this.closed = true;
    this.model.device.reserves.delete(this.drop);
    this.drop();
  }

  private seenBefore(key: string): boolean {
    const again = this.seen.delete(key);
    this.seen.add(key);
    forgetOldest(this.seen);
    return again;
  }

  /** False where there is no memory for it. */
  private async record(
    key: string,
    form: DrawingForm,
    values: DrawingValues,
    submission: Submission,
  ): Promise<boolean> {
    const rows = form.guidance.rowsAt(0, form.images);
    const cacheBytes = rows * kvElements(kvExtents(this.model.config, form.schedule)) * dtypeBytes[this.model.dtype];
    let drawing: RecordedDrawing | undefined;
    try {
      // What it uploads serves later requests as well: one that is cancelled must not take it along.
      const make = () => new RecordedDrawing(this.model, form, values, () => this.release(key));
      drawing = this.model.device.withToken(null, make);
      // Others of the form that come meanwhile are submitted.
      this.kept.set(key, { drawing, cacheBytes, busy: true });
      await drawing.record(submission);
      return true;
    } catch (error) {
      if (drawing) this.forget(key);
      if (!isOutOfMemory(error)) throw error;
      this.refuse(key);
      return false;
    }
  }

  private release(key: string): void {
    const { device } = this.model;
    if (device.closed) {
      this.forget(key);
      return;
    }
    const { drawing, cacheBytes } = this.kept.get(key)!;
    this.kept.get(key)!.busy = false;
    const most = device.stats().limitBytes * this.share;
    const alone = drawing.bytes + cacheBytes;
    if (alone > most) this.refuse(key);
    if (this.closed || alone > most) {
      this.forget(key);
      return;
    }
    let bytes = 0;
    for (const kept of this.kept.values()) bytes += kept.drawing.bytes + kept.cacheBytes;
    for (const [oldest, kept] of this.kept) {
      if (bytes <= most && this.kept.size <= MOST_FORMS) break;
      if (kept.busy) continue;
      bytes -= kept.drawing.bytes + kept.cacheBytes;
      this.forget(oldest);
    }
  }

  private refuse(key: string): void {
    this.tooLarge.add(key);
    forgetOldest(this.tooLarge);
  }

  private forget(key: string): void {
    this.kept.get(key)!.drawing.dispose();
    this.kept.delete(key);
  }

  /** What the commands depend on. Guidance that is 1 leaves some of them out. */
  private keyOf({ schedule, finest, images, guidance, topK }: DrawingForm, { text }: DrawingValues): string {
    const guided = guidance.strengths.map((cfg) => cfg !== 1);
    const extents = textExtents(text, this.model.text.longest);
    return JSON.stringify([schedule, finest, images, guided, topK, extents, text.rows.length, text.kv_NCt.dtype]);
  }
}
