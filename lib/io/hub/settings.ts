/** Where models come from and where they are kept: the environment of the Hugging Face tools, and options that override it. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { InfinityError, invalidArgument } from '../../errors.js';

const DEFAULT_ENDPOINT = 'https://huggingface.co';

/** What a caller may say instead of the environment. */
export interface HubLocation {
  /** Root of the cache. Default: HF_HUB_CACHE, else `hub` in HF_HOME, else in ~/.cache/huggingface. */
  readonly cacheDirectory?: string;
  /** Default: HF_ENDPOINT, else the public hub. */
  readonly endpoint?: string;
  /** Sent to the endpoint alone. Default: HF_TOKEN, else the file that the Hugging Face tools keep it in. */
  readonly token?: string;
  /** Use what is in the cache and nothing else. Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
}

export interface HubSettings {
  readonly cacheDirectory: string;
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly offline: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

function expandHome(path: string): string {
  return resolve(path.replace(/^~(?=$|[/\\])/, homedir()));
}

function hubHome(env: Environment): string {
  return expandHome(env.HF_HOME || join(env.XDG_CACHE_HOME || '~/.cache', 'huggingface'));
}

/** The folder that holds `models--organisation--repository`. */
export function hubCacheDirectory(given?: string, env: Environment = process.env): string {
  return expandHome(given || env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hubHome(env), 'hub'));
}

function checkEndpoint(given: string): string {
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.search || url.hash)
    invalidArgument('the endpoint', 'an http or https address', given, 'Check HF_ENDPOINT.');
  return url.href.replace(/\/+$/, '');
}

async function readToken(given: string | undefined, env: Environment): Promise<string | undefined> {
  const stored = async () =>
    readFile(env.HF_TOKEN_PATH ? expandHome(env.HF_TOKEN_PATH) : join(hubHome(env), 'token'), 'utf8').catch(() => '');
  const token = (given ?? (env.HF_TOKEN || (await stored()))).trim();
  if (token === '') return undefined;
  // The value itself is a secret: it is in no message.
  if (!/^[!-~]+$/.test(token))
    throw new InfinityError('INVALID_ARGUMENT', 'The access token holds characters that no token has.', {
      cure: 'Check HF_TOKEN.',
    });
  return token;
}

/** @throws InfinityError INVALID_ARGUMENT for an endpoint or token that is none */
export async function hubSettings(given: HubLocation = {}, env: Environment = process.env): Promise<HubSettings> {
  return {
    cacheDirectory: hubCacheDirectory(given.cacheDirectory, env),
    endpoint: checkEndpoint(given.endpoint ?? (env.HF_ENDPOINT || DEFAULT_ENDPOINT)),
    token: await readToken(given.token, env),
    offline: given.offline ?? /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ''),
  };
}
