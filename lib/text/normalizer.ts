/** Text normalisation as a `tokenizer.json` describes it. */
import { CharsMap } from './charsmap.js';
import { expectTokenizer, invalidTokenizer, type NormalizerJson } from './tokenizer_json.js';

export type Normalizer = (text: string) => string;

/** One character or class with at most one quantifier: what T5 uses, and nothing that can backtrack without end. */
const SAFE_REGEX = /^(\\?.|\[[^\]\\]+\])(\{\d+(,\d*)?\}|[+*?])?$/u;

function replacer(json: Extract<NormalizerJson, { type: 'Replace' }>): Normalizer {
  const { pattern, content } = json;
  expectTokenizer(typeof content === 'string', 'a string as Replace content', content);
  if ('String' in pattern) return (text) => text.replaceAll(pattern.String, () => content);
  const source = pattern.Regex;
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

/** @throws InfinityError CHECKPOINT_INVALID for an unknown or malformed normalizer */
export function buildNormalizer(json: NormalizerJson | null): Normalizer {
  if (json === null || json === undefined) return (text) => text;
  switch (json.type) {
    case 'Sequence': {
      expectTokenizer(Array.isArray(json.normalizers), 'a list of normalizers', json.normalizers);
      const steps = json.normalizers.map(buildNormalizer);
      return (text) => steps.reduce((t, step) => step(t), text);
    }
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
      throw invalidTokenizer('a known normalizer', (json as { type?: unknown }).type);
  }
}
