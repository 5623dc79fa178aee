/** JSON from strangers: as deep and as dense as configurations are, and no more. */
import type { InfinityError } from '../errors.js';

/** Readers walk recursively; no file of a model comes near. */
const MAX_DEPTH = 64;
/** Bytes of memory that every file may take; beyond them, this many for each of its characters. */
const FREE_BYTES = 1 << 20;
const BYTES_PER_CHARACTER = 8;
/** About what V8 spends on each. */
const COST = { object: 64, array: 48, string: 16, separator: 8 } as const;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** What is wrong with the structure of a text that may be JSON: refused before V8 builds anything from it. */
function excess(text: string): string | undefined {
  let depth = 0;
  let cost = 0;
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        cost += COST.string;
        for (at++; at < text.length && text.charCodeAt(at) !== QUOTE; at++) if (text.charCodeAt(at) === BACKSLASH) at++;
        break;
      case 0x7b: // {
        cost += COST.object;
        if (++depth > MAX_DEPTH) return 'is nested too deeply';
        break;
      case 0x5b: // [
        cost += COST.array;
        if (++depth > MAX_DEPTH) return 'is nested too deeply';
        break;
      case 0x7d: // }
      case 0x5d: // ]
        depth--;
        break;
      case 0x2c: // ,
        cost += COST.separator;
        break;
    }
  }
  return cost > Math.max(FREE_BYTES, BYTES_PER_CHARACTER * text.length)
    ? 'holds more values than a model needs'
    : undefined;
}

/**
 * Parses JSON that somebody else wrote: at most 64 levels, and not so many tiny values that a small file becomes a large
 * object.
 *
 * @param refuse makes the error from the end of a sentence, such as "is not JSON"
 */
export function parseJson(text: string, refuse: (what: string) => InfinityError): unknown {
  const problem = excess(text);
  if (problem !== undefined) throw refuse(problem);
  try {
    return JSON.parse(text);
  } catch {
    throw refuse('is not JSON');
  }
}
