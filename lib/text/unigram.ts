/**
 * Unigram segmentation: the most probable split of a word into pieces, found by the Viterbi search.
 * Source: Kudo 2018, "Subword Regularization"; conventions as in the Hugging Face `tokenizers` library.
 */
import { expectTokenizer, type UnigramJson } from './tokenizer_json.js';

/** An unknown character costs this much more than the least probable piece. */
const UNKNOWN_PENALTY = 10;

/** A vocabulary of pieces with their log probabilities. */
export class UnigramModel {
  readonly unknownId: number;
  private readonly vocab: UnigramJson['vocab'];
  private readonly ids = new Map<string, number>();
  private readonly unknownScore: number;
  /** Characters (code points) of the longest piece: bounds the search. */
  private readonly longest: number = 1;

  /** @throws InfinityError CHECKPOINT_INVALID for a malformed vocabulary */
  constructor(json: UnigramJson) {
    expectTokenizer(json?.type === 'Unigram', 'a Unigram model', json?.type);
    expectTokenizer(json.byte_fallback !== true, 'a model without byte_fallback', json.byte_fallback);
    expectTokenizer(Array.isArray(json.vocab) && json.vocab.length > 0, 'a vocabulary', json.vocab);
    // By index: iterating would make an object an entry, of which there may be very many.
    for (let id = 0; id < json.vocab.length; id++) {
      const entry = json.vocab[id]!;
      const valid = Array.isArray(entry) && typeof entry[0] === 'string' && Number.isFinite(entry[1]);
      expectTokenizer(valid, '[piece, score] in the vocabulary', entry);
    }
    const { unk_id: unknownId } = json;
    expectTokenizer(
      Number.isInteger(unknownId) && json.vocab[unknownId] !== undefined,
      'an unk_id in the vocabulary',
      unknownId,
    );
    this.unknownId = unknownId;
    this.vocab = json.vocab;
    let lowest = Number.POSITIVE_INFINITY;
    for (let id = 0; id < json.vocab.length; id++) {
      const entry = json.vocab[id]!;
      const piece = entry[0];
      this.ids.set(piece, id);
      lowest = Math.min(lowest, entry[1]);
      if (piece.length > this.longest) this.longest = Math.max(this.longest, [...piece].length);
    }
    this.unknownScore = lowest - UNKNOWN_PENALTY;
  }

  /** Pieces in the vocabulary. */
  get size(): number {
    return this.vocab.length;
  }

  pieceOf(id: number): string | undefined {
    return this.vocab[id]?.[0];
  }

  idOf(piece: string): number | undefined {
    return this.ids.get(piece);
  }

  /** Ids of one word. Adjacent unknown characters give one unknown id; of equal scores the earlier start wins. */
  encode(word: string): number[] {
    const characters = [...word];
    const count = characters.length;
    const best = new Float64Array(count + 1).fill(Number.NEGATIVE_INFINITY);
    const bestId = new Int32Array(count + 1);
    const cameFrom = new Int32Array(count + 1).fill(-1);
    best[0] = 0;
    const offer = (start: number, end: number, id: number, score: number) => {
      if (cameFrom[end] >= 0 && best[start] + score <= best[end]) return;
      best[end] = best[start] + score;
      bestId[end] = id;
      cameFrom[end] = start;
    };
    for (let start = 0; start < count; start++) {
      let piece = '';
      let single = false;
      for (let end = start + 1; end <= Math.min(start + this.longest, count); end++) {
        piece += characters[end - 1];
        const id = this.ids.get(piece);
        if (id === undefined) continue;
        offer(start, end, id, this.vocab[id]![1]);
        single ||= end === start + 1;
      }
      if (!single) offer(start, start + 1, this.unknownId, this.unknownScore);
    }
    const ids: number[] = [];
    for (let end = count; end > 0; end = cameFrom[end]) {
      if (bestId[end] !== this.unknownId || ids.at(-1) !== this.unknownId) ids.push(bestId[end]);
    }
    return ids.reverse();
  }
}
