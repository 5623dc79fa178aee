/** Reverse-mode differentiation, first order. A tape records inside one synchronous function and is walked back once. */
import { InfinityError } from './errors.js';
import { add } from './ops/elementwise.js';
import { recorder, type Vjp, withRecorder } from './ops/record.js';
import { scope, type Tensor } from './tensor.js';

interface Node {
  readonly name: string;
  readonly inputIds: readonly number[];
  readonly outputs: readonly { id: number }[];
  readonly saved: readonly Tensor[];
  readonly vjp: Vjp;
}

/** Gradients by tensor; the caller disposes them. */
export class Gradients {
  constructor(private readonly byId: Map<number, Tensor>) {}
  /** The gradient of a watched tensor, or undefined when the loss does not depend on it. */
  get(tensor: Tensor): Tensor | undefined {
    return this.byId.get(tensor.id);
  }
  /** Adds those of another computation to these, and disposes them. */
  add(others: Gradients): void {
    for (const [id, g] of others.byId) accumulate(this.byId, id, g);
    others.dispose();
  }
  dispose(): void {
    for (const g of this.byId.values()) g.dispose();
    this.byId.clear();
  }
}

/** Adds `g` to the gradient of tensor `id`; the map is an owner of what it holds. */
function accumulate(grads: Map<number, Tensor>, id: number, g: Tensor): void {
  const before = grads.get(id);
  if (!before) {
    grads.set(id, g.retain());
    return;
  }
  scope(() => {
    grads.set(id, add(before, g).retain());
  });
  before.dispose();
}

/** A recording of ops; see `run`. */
export class Tape {
  private nodes: Node[] = [];
  private readonly tracked = new Set<number>();
  private readonly watched = new Set<number>();
  private walked = false;

  /** Asks for the gradient of these tensors. Call before `run`. */
  watch(...tensors: Tensor[]): this {
    for (const t of tensors) {
      this.tracked.add(t.id);
      this.watched.add(t.id);
    }
    return this;
  }

  /**
   * Runs `fn` synchronously, in a scope of its own, recording every op that depends on a watched tensor. When `fn` throws,
   * what was recorded is released.
   */
  run<T>(fn: () => T): T {
    const recording = {
      tracks: (t: Tensor): boolean => this.tracked.has(t.id),
      record: (
        name: string,
        inputs: readonly (Tensor | null)[],
        outputs: readonly Tensor[],
        saved: readonly Tensor[],
        vjp: Vjp,
      ): void => {
        for (const t of saved) t.retain();
        for (const t of outputs) this.tracked.add(t.id);
        const inputIds = inputs.map((t) => (t && this.tracked.has(t.id) ? t.id : 0));
        this.nodes.push({ name, inputIds, outputs: outputs.map((t) => ({ id: t.id })), saved, vjp });
      },
    };
    try {
      return scope(() => withRecorder(recording, fn));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * Walks back from `outputs` with the given cotangents and returns the gradients of the watched tensors. What was saved is
   * released on the way: a tape is walked once.
   */
  backward(outputs: readonly { readonly of: Tensor; readonly cotangent: Tensor }[]): Gradients {
    if (this.walked)
      throw new InfinityError('DISPOSED', 'Expected a tape that was not yet walked back but received one that was.', {
        cure: 'Record the computation again, or pass all outputs to one backward().',
      });
    this.walked = true;
    const grads = new Map<number, Tensor>();
    try {
      for (const { of, cotangent } of outputs) accumulate(grads, of.id, cotangent);
      for (let node = this.nodes.pop(); node; node = this.nodes.pop()) this.walk(node, grads);
    } catch (error) {
      for (const g of grads.values()) g.dispose();
      this.dispose();
      throw error;
    }
    for (const [id, g] of grads) {
      if (this.watched.has(id)) continue;
      g.dispose();
      grads.delete(id);
    }
    return new Gradients(grads);
  }

  private walk(node: Node, grads: Map<number, Tensor>): void {
    try {
      const cotangents = node.outputs.map((o) => grads.get(o.id));
      if (cotangents.every((g) => g === undefined)) return;
      scope(() => {
        const needed = node.inputIds.map((id) => id !== 0);
        const result = node.vjp(cotangents, needed);
        for (let i = 0; i < node.inputIds.length; i++) {
          const g = result[i];
          if (g && needed[i]) accumulate(grads, node.inputIds[i]!, g);
        }
      });
      for (const o of node.outputs) {
        if (this.watched.has(o.id)) continue;
        grads.get(o.id)?.dispose();
        grads.delete(o.id);
      }
    } finally {
      for (const t of node.saved) t.dispose();
    }
  }

  /** Releases what was saved without walking back. */
  dispose(): void {
    for (const node of this.nodes) for (const t of node.saved) t.dispose();
    this.nodes = [];
  }
}

/**
 * Activation checkpointing: runs `fn` without keeping its intermediates and runs it again in the backward pass.
 * `parameters` are the tensors that `fn` uses besides `inputs` and that want a gradient.
 */
export function checkpoint(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  parameters: readonly Tensor[],
): Tensor {
  const active = recorder();
  const all = [...new Set([...inputs, ...parameters])];
  const output = withRecorder(undefined, () => scope(() => fn(...inputs)));
  if (!active || !all.some((t) => active.tracks(t))) return output;
  active.record('checkpoint', all, [output], all, ([gy], needed) => {
    if (!gy) return [];
    const tape = new Tape().watch(...all.filter((_, i) => needed[i]));
    const again = tape.run(() => fn(...inputs));
    const grads = tape.backward([{ of: again, cotangent: gy }]);
    // Views belong to the scope of this gradient, which the caller's accumulation outlives.
    const views = all.map((t) => grads.get(t)?.view(t.shape));
    grads.dispose();
    return views;
  });
  return output;
}
