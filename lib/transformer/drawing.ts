/** A drawing under way: its commands go to the device one by one, or were recorded for an earlier one and run as programs. */
import { slice } from '../ops/shape.js';
import { Program } from '../program.js';
import type { Submission } from '../submission.js';
import type { Tensor } from '../tensor.js';
import { type DrawingInputs, type DrawingValues, drawingInputs, InputBuffers } from './drawing_inputs.js';
import type { InfinityTransformer } from './infinity.js';
import { type DrawingForm, type Interventions, ScaleSteps, type Step } from './scale_steps.js';

/** Scales in turn. */
export interface Drawing {
  /** Submits what comes before the scales. */
  begin(submission: Submission): Promise<void>;
  /** Submits scale k. What it leaves belongs to the caller, who keeps it until the next one is submitted. */
  scale(k: number, submission: Submission): Promise<Step>;
  /** The request has ended, at whatever scale. */
  end(): void;
}

/** One request's commands, in memory that goes with it. */
export class SubmittedDrawing implements Drawing {
  private readonly steps: ScaleSteps;
  private readonly inputs: DrawingInputs;
  private before: Step | undefined;

  constructor(model: InfinityTransformer, form: DrawingForm, values: DrawingValues, interventions?: Interventions) {
    this.inputs = drawingInputs(model, values);
    try {
      this.steps = new ScaleSteps(model, form, this.inputs, interventions);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  begin(submission: Submission): Promise<void> {
    return this.steps.begin(submission);
  }

  async scale(k: number, submission: Submission): Promise<Step> {
    this.before = await this.steps.scale(k, this.before, submission);
    return this.before;
  }

  end(): void {
    this.steps.dispose();
    this.release();
  }

  private release(): void {
    const { textRange, keys, choices, levels_KC } = this.inputs;
    for (const tensor of [textRange, keys, choices, levels_KC]) tensor.dispose();
  }
}

/**
 * Commands that serve every request of a form. Program 0 is what comes before the scales, program k + 1 is scale k; they share
 * memory, so a scale's activations lie where those of earlier scales did.
 */
export class RecordedDrawing implements Drawing {
  private readonly inputs: InputBuffers;
  private readonly steps: ScaleSteps;
  private readonly programs: Program[] = [];
  /** What each scale leaves: written again by every request. */
  private readonly made: Step[] = [];

  /**
   * @param values of any request of the form: they give the extents
   * @param ended is told when a request has ended
   */
  constructor(
    private readonly model: InfinityTransformer,
    private readonly form: DrawingForm,
    values: DrawingValues,
    private readonly ended: () => void,
  ) {
    this.inputs = new InputBuffers(model, values);
    try {
      this.steps = new ScaleSteps(model, form, this.inputs);
    } catch (error) {
      this.inputs.dispose();
      throw error;
    }
  }

  /** Bytes that the programs take, besides inputs, keys and values. */
  get bytes(): number {
    return this.programs[0]!.bytes;
  }

  /** Records all of it; nothing runs. */
  async record(submission: Submission): Promise<void> {
    const program = (make: () => Promise<void>): Promise<void> => {
      const next = new Program(this.model.device, this.programs[0]);
      this.programs.push(next);
      return submission.into(next, make);
    };
    await program(() => this.steps.begin(submission));
    for (let k = 0; k < this.form.schedule.length; k++)
      await program(async () => {
        const before = this.made.at(-1);
        this.made.push(await this.steps.scale(k, before, submission));
        before?.next_RLC?.dispose();
      });
  }

  /** The values of the request that comes next, in the order of the queue. */
  write(values: DrawingValues): void {
    this.inputs.write(values);
  }

  begin(submission: Submission): Promise<void> {
    return submission.part(() => this.programs[0]!.run());
  }

  /** Copies: the next request writes the same memory. */
  scale(k: number, submission: Submission): Promise<Step> {
    const { bits, sum_BHWd } = this.made[k]!;
    const copy = (t: Tensor) => slice(t, 0, 0, t.shape[0]!);
    return submission.part(() => {
      this.programs[k + 1]!.run();
      return { bits: copy(bits), sum_BHWd: copy(sum_BHWd), next_RLC: undefined };
    });
  }

  end(): void {
    this.ended();
  }

  dispose(): void {
    for (const { bits, sum_BHWd, next_RLC } of this.made) for (const t of [bits, sum_BHWd, next_RLC]) t?.dispose();
    for (const program of this.programs) program.dispose();
    this.steps.dispose();
    this.inputs.dispose();
  }
}
