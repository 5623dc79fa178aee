/** Prompts to text features, remembered: the same prompt is drawn again and again, and its features never change. */
import { InfinityError } from '../errors.js';
import { cat, slice } from '../ops/shape.js';
import { scope, type Tensor, unscoped } from '../tensor.js';
import type { T5Encoder } from '../text/t5.js';
import type { TextTokenizer } from '../text/tokenizer.js';
import type { TextFeatures } from '../transformer/text.js';

/** Prompts that are remembered. */
const CAPACITY = 64;
/** No vocabulary needs this many characters a token: longer prompts are refused before they are taken apart. */
const MAX_CHARACTERS_PER_TOKEN = 100;

export class PromptFeatures {
  /** [tokens, width] by prompt, the one that was not used for longest first. */
  private readonly known = new Map<string, Tensor>();

  /** @param maxTokens of a prompt, end marker included */
  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly encoder: T5Encoder,
    readonly maxTokens: number,
  ) {}

  /**
   * Token ids of a prompt.
   *
   * @throws InfinityError PROMPT_TOO_LONG naming the tokens
   */
  tokens(prompt: string): readonly number[] {
    const { maxTokens: limit } = this;
    if (prompt.length > limit * MAX_CHARACTERS_PER_TOKEN) tooLong(prompt, `${prompt.length} characters`, limit, {});
    const { ids } = this.tokenizer.encode(prompt);
    if (ids.length > limit) tooLong(prompt, `${ids.length} tokens`, limit, { tokens: ids.length });
    return ids;
  }

  /** Whether `of` will not need the encoder. */
  knows(prompts: readonly string[]): boolean {
    return prompts.every((prompt) => this.known.has(prompt));
  }

  /**
   * Features of prompts, packed in their order; the same prompt may occur more than once. Prompts that are not known are
   * encoded together. The result belongs to the caller.
   */
  of(prompts: readonly string[]): TextFeatures {
    this.learn([...new Set(prompts)].filter((prompt) => !this.known.has(prompt)));
    return scope(() => {
      const rows = prompts.map((prompt) => this.touch(prompt));
      const kv_NCt = rows.length === 1 ? rows[0]!.retain() : cat(rows, 0);
      this.forget();
      return { kv_NCt, lens: rows.map((t) => t.shape[0]!) };
    });
  }

  private learn(prompts: readonly string[]): void {
    if (prompts.length === 0) return;
    const ids = prompts.map((prompt) => this.tokens(prompt));
    // They serve later requests too: this one's abort must not cancel them.
    const encode = () => {
      const { kv_NCt, lens } = this.encoder.encode(ids);
      let start = 0;
      for (const [i, prompt] of prompts.entries()) {
        const first = start;
        start += lens[i]!;
        this.known.set(
          prompt,
          unscoped(() => slice(kv_NCt, 0, first, start)),
        );
      }
    };
    this.encoder.device.withToken(null, () => scope(encode));
  }

  private touch(prompt: string): Tensor {
    const tensor = this.known.get(prompt)!;
    this.known.delete(prompt);
    this.known.set(prompt, tensor);
    return tensor;
  }

  private forget(): void {
    for (const [prompt, tensor] of this.known) {
      if (this.known.size <= CAPACITY) return;
      tensor.dispose();
      this.known.delete(prompt);
    }
  }

  dispose(): void {
    for (const tensor of this.known.values()) tensor.dispose();
    this.known.clear();
  }
}

function tooLong(prompt: string, found: string, limit: number, fields: Readonly<Record<string, number>>): never {
  throw new InfinityError('PROMPT_TOO_LONG', `Expected at most ${limit} tokens in the prompt but received ${found}.`, {
    value: prompt,
    fields: { ...fields, limit },
    cure: 'Shorten the prompt.',
  });
}
