/**
 * Which tensors of a file are what: the state dicts of known networks, however deep they lie. A network is recognised by a
 * tensor that only it has, so every nesting of the official files is found alike: bare, under `vae`, `ema` or `state_dict`,
 * under `trainer.gpt_fsdp`, `trainer.gpt_ema_fsdp`, `trainer.gpt_wo_ddp` and `trainer.vae_local`, and behind `module.`.
 */
import { InfinityError } from '../errors.js';
import { unwrapped } from '../io/nested_tensors.js';
import { T5_MARK } from '../text/infer_config.js';
import { AUTOENCODER_MARKS } from '../tokenizer/infer_config.js';
import { TRANSFORMER_MARK } from '../transformer/infer_config.js';

/** The networks that weights can belong to. */
export const NETWORKS = ['transformer', 'vae', 'text_encoder'] as const;
export type NetworkName = (typeof NETWORKS)[number];

const MARKS: Readonly<Record<NetworkName, readonly string[]>> = {
  transformer: [TRANSFORMER_MARK],
  vae: AUTOENCODER_MARKS,
  text_encoder: [T5_MARK],
};

export interface FoundState {
  readonly network: NetworkName;
  /** What stands before the names of the network; empty, or with a dot at its end. */
  readonly prefix: string;
  /** Averaged weights, by the name of their place. */
  readonly ema: boolean;
}

/** All state dicts among these names, in the order of the file. */
export function findStates(names: Iterable<string>): FoundState[] {
  const found = new Map<string, FoundState>();
  for (const raw of names) {
    const name = unwrapped(raw);
    for (const network of NETWORKS) {
      const mark = MARKS[network].find((m) => name === m || name.endsWith(`.${m}`));
      if (mark === undefined) continue;
      const prefix = name.slice(0, name.length - mark.length);
      found.set(`${network} ${prefix}`, { network, prefix, ema: /(^|[._])ema([._]|$)/.test(prefix) });
    }
  }
  return [...found.values()];
}

/**
 * The state dict of a network: the averaged one where `ema` asks for it, otherwise the trained one; the least deep of several. Where
 * there is only the other one it is taken, except that `true` insists on averaged weights.
 *
 * @param file for the message
 * @throws InfinityError CHECKPOINT_INVALID when the file does not hold it
 */
export function chooseState(
  states: readonly FoundState[],
  network: NetworkName,
  ema: boolean | 'preferred',
  file: string,
): FoundState {
  const own = states.filter((state) => state.network === network);
  const byDepth = [...own].sort((a, b) => a.prefix.length - b.prefix.length);
  const chosen = byDepth.find((state) => state.ema === Boolean(ema)) ?? (ema === true ? undefined : byDepth[0]);
  if (chosen) return chosen;
  const holds = states.map((state) => `${state.network}${state.prefix && ` at ${state.prefix.slice(0, -1)}`}`);
  throw new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected ${ema === true ? 'averaged ' : ''}weights of the ${network} in ${file} but found ${holds.join(', ') || 'no network of this family'}.`,
    { value: file, fields: { network, ema }, cure: own.length > 0 ? 'Leave ema out.' : 'Check which file is which.' },
  );
}
