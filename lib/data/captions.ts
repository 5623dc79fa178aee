/** Which of a row's captions a sample gets. Source: Infinity, infinity/dataset/dataset_t2i_iterable.py. */
import type { Captions } from './rows.js';
import type { CounterRandom } from './shapes/random.js';

/** How captions are chosen. */
export interface CaptionChoice {
  /** Probability of the short caption. */
  readonly shortProbability: number;
  /** Long captions end after a drawn number of sentences. */
  readonly dynamicLength: boolean;
}

/** Words from which on a first sentence says enough to stand alone. */
const FULL_SENTENCE = 15;

/** What follows "--" in an official caption are settings, not words. */
function withoutSettings(text: string): string {
  const at = text.indexOf('--');
  return (at < 0 ? text : text.slice(0, at)).trim();
}

/** Whether anything is left to be chosen. */
export function hasCaption({ long, short }: Captions): boolean {
  return withoutSettings(long) !== '' || withoutSettings(short) !== '';
}

/** Sentences with their full stops: joined, they are the text again. */
function sentencesOf(text: string): string[] {
  const parts = text.match(/[^.]*\.|[^.]+$/g) ?? [];
  const sentences: string[] = [];
  // Stops in a row end one sentence.
  for (const part of parts)
    if (sentences.length > 0 && /^[.\s]*$/.test(part)) sentences.push(sentences.pop()! + part);
    else sentences.push(part);
  return sentences;
}

function choose({ long, short, whole }: Captions, choice: CaptionChoice, random: CounterRandom): string {
  const wantsShort = random.chance(choice.shortProbability);
  if (long === '') return short;
  if (whole || !choice.dynamicLength) return wantsShort && short !== '' ? short : long;
  const sentences = sentencesOf(long);
  const least = sentences[0]!.trim().split(/\s+/).length >= FULL_SENTENCE ? 1 : 2;
  if (wantsShort) return short !== '' ? short : sentences.slice(0, least).join('');
  if (sentences.length <= least) return long;
  return sentences.slice(0, least + 1 + random.below(sentences.length - least)).join('');
}

/**
 * A caption of a row that has one. With the probability of the short one that, or, where it is empty, the first sentence
 * of the long one (two unless it has fifteen words); else the long one, with a dynamic length cut after a uniformly drawn
 * number of more sentences than those. Anything after "--" is left out.
 */
export function chooseCaption(captions: Captions, choice: CaptionChoice, random: CounterRandom): string {
  const chosen = withoutSettings(choose(captions, choice, random));
  return chosen || withoutSettings(captions.long) || withoutSettings(captions.short);
}
