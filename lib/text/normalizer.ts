/** Text normalisation as a `tokenizer.json` describes it. */
import { CharsMap } from './charsmap.js';
import { expectTokenizer, invalidTokenizer, type NormalizerJson } from './tokenizer_json.js';

export type Normalizer = (text: string) => string;

/** One character or class with at most one quantifier: what T5 uses, and nothing that can backtrack without end. */
const SAFE_REGEX = /^(\\?.|\[[^\]\\]+\])(\{\d+(,\d*)?\}|[+*?])?$/u;

/** Steps that each lengthen a text a little could together make a sentence fill the memory. */
const MAX_CONTENT = 16;
const MAX_GROWTH = 64;
/** T5 has three. */
const MAX_STEPS = 256;

function replacer(json: Extract<NormalizerJson, { type: 'Replace' }>): Normalizer {
  const { content } = json;
  const { String: plain, Regex: source } = (json.pattern ?? {}) as {
    readonly String?: unknown;
    readonly Regex?: unknown;
  };
  const short = typeof content === 'string' && content.length <= MAX_CONTENT;
  expectTokenizer(short, `at most ${MAX_CONTENT} characters as Replace content`, content);
  if (typeof plain === 'string' && plain !== '') return (text) => text.replaceAll(plain, () => content);
  expectTokenizer(typeof source === 'string' && SAFE_REGEX.test(source), 'a plain Replace pattern', source);
  const regex = new RegExp(source, 'gu');
  return (text) => text.replace(regex, () => content);
}

function stripper(json: Extract<NormalizerJson, { type: 'Strip' }>): Normalizer {
  const left = json.strip_left ? /^\p{White_Space}+/u : /^(?!)/u;
  return (text) => {
    const from = left.exec(text)?.[0].length ?? 0;
    let to = text.length;
    if (json.strip_right) while (to > from && /\p{White_Space}/u.test(text[to - 1])) to--;
    return text.slice(from, to);
  };
}

/** The steps of a normalizer in their order, those of sequences in sequences too. */
function stepsOf(json: NormalizerJson | null): Normalizer[] {
  if (json?.type !== 'Sequence') return [buildStep(json)];
  expectTokenizer(Array.isArray(json.normalizers), 'a list of normalizers', json.normalizers);
  return json.normalizers.flatMap(stepsOf);
}

/** @throws InfinityError CHECKPOINT_INVALID for an unknown or malformed normalizer; from what it returns, for one that explodes */
export function buildNormalizer(json: NormalizerJson | null): Normalizer {
  if (json === null || json === undefined) return (text) => text;
  const steps = stepsOf(json);
  expectTokenizer(steps.length <= MAX_STEPS, `at most ${MAX_STEPS} normalizers`, steps.length);
  return (text) => {
    const longest = MAX_GROWTH * (text.length + 1);
    return steps.reduce((before, step) => {
      const after = step(before);
      expectTokenizer(after.length <= longest, 'normalizers that do not multiply a text', after.length);
      return after;
    }, text);
  };
}

function buildStep(json: NormalizerJson | null): Normalizer {
  switch (json?.type) {
    case 'Precompiled': {
      const encoded = json.precompiled_charsmap;
      expectTokenizer(typeof encoded === 'string', 'a base64 precompiled_charsmap', encoded);
      const map = new CharsMap(Buffer.from(encoded, 'base64'));
      return (text) => map.normalize(text);
    }
    case 'Strip':
      return stripper(json);
    case 'Replace':
      return replacer(json);
    case 'Lowercase':
      return (text) => text.toLowerCase();
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD': {
      const form = json.type;
      return (text) => text.normalize(form);
    }
    default:
      throw invalidTokenizer('a known normalizer', (json as { type?: unknown } | null)?.type);
  }
}
