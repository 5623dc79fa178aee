/** Requests to a hub: the token, redirects, statuses, silence. */
import { InfinityError } from '../../errors.js';
import { parseJson } from '../json.js';
import { downloadFailed, type RetryPolicy, Watchdog, withRetries } from './retry.js';
import type { HubSettings } from './settings.js';

export interface Page {
  readonly value: unknown;
  /** Address of the next page of a list. */
  readonly next: string | undefined;
}

export interface ByteRequest {
  /** First byte that is asked for. */
  readonly from: number;
  /** Tag of the file that the bytes before `from` came from. */
  readonly etag: string | undefined;
}

/** What a server says of the file before its bytes. Absent headers are undefined. */
export interface ByteAnswer {
  readonly status: 200 | 206;
  /** Strong tag of the bytes, in its quotes, as `If-Range` takes it. */
  readonly etag: string | undefined;
  /** Digest and size of the file behind a redirect (X-Linked-ETag, X-Linked-Size). */
  readonly linked: { readonly etag: string | undefined; readonly size: number | undefined };
  /** Bytes that the body promises. */
  readonly length: number | undefined;
  /** First byte and size of the file, from Content-Range. */
  readonly range: { readonly from: number; readonly size: number | undefined } | undefined;
}

const MAX_REDIRECTS = 5;
const MAX_PAGE_BYTES = 1 << 25;
const MAX_NOTE = 200;

function integerOf(text: string | null): number | undefined {
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** Milliseconds that Retry-After asks for: seconds or a date. */
function retryAfterOf(headers: Headers): number | undefined {
  const text = headers.get('retry-after');
  if (text === null) return undefined;
  const seconds = integerOf(text) ?? (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds * 1000) : undefined;
}

/** The server's own words are shown, but not its control characters. */
function noteOf(headers: Headers): string {
  const note = (headers.get('x-error-message') ?? '').replace(/[^\x20-\x7e]/g, '').slice(0, MAX_NOTE);
  return note === '' ? '' : ` The server says: ${note}`;
}

function refusal({ status, headers }: Response, url: string): InfinityError {
  const note = noteOf(headers);
  if (status === 401 || status === 403 || status === 451)
    return new InfinityError('ACCESS_DENIED', `Access to ${url} is refused (${status}).${note}`, {
      value: url,
      fields: { status },
      cure: 'Check the name; for a private or gated repository accept its terms and set HF_TOKEN.',
    });
  if (status === 404 || status === 410)
    return new InfinityError('MODEL_NOT_FOUND', `There is nothing at ${url} (${status}).${note}`, {
      value: url,
      fields: { status },
      cure: 'Check the name of the repository and the revision.',
    });
  const again = status >= 500 || [408, 416, 425, 429].includes(status);
  const retryAfter = retryAfterOf(headers);
  return downloadFailed(`${url} answered with status ${status}.${note}`, {
    again,
    status,
    url,
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
}

async function readLimited(body: ReadableStream<Uint8Array> | null, url: string, heard: () => void): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    heard();
    chunks.push(chunk);
    bytes += chunk.byteLength;
    if (bytes > MAX_PAGE_BYTES) throw downloadFailed(`The list at ${url} is longer than any.`, { again: false, url });
  }
  return Buffer.concat(chunks);
}

/** The `rel="next"` address of a Link header, if it stays on the server that sent it. */
function nextPage(headers: Headers, url: string): string | undefined {
  const target = /<([^>]+)>\s*;\s*rel="?next"?/.exec(headers.get('link') ?? '')?.[1];
  if (target === undefined) return undefined;
  const next = URL.canParse(target, url) ? new URL(target, url) : undefined;
  if (next?.origin !== new URL(url).origin)
    throw downloadFailed(`The list at ${url} goes on at another server.`, { again: false, url });
  return next.href;
}

function answerOf({ status, headers }: Response, linked: ByteAnswer['linked']): ByteAnswer {
  const range = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15}|\*)$/.exec(headers.get('content-range') ?? '');
  const etag = headers.get('etag');
  const encoded = (headers.get('content-encoding') ?? 'identity') !== 'identity';
  return {
    status: status === 206 ? 206 : 200,
    etag: etag !== null && /^"[^"]*"$/.test(etag) ? etag : undefined,
    linked,
    length: encoded ? undefined : integerOf(headers.get('content-length')),
    range: range ? { from: Number(range[1]), size: integerOf(range[2]!) } : undefined,
  };
}

export class HubClient {
  constructor(
    readonly settings: HubSettings,
    readonly policy: RetryPolicy,
    readonly signal: AbortSignal | undefined,
  ) {}

  /** One page of JSON; tried again as the policy says. */
  async page(url: string): Promise<Page> {
    return withRetries(() => this.pageOnce(url), this.policy, this.signal);
  }

  private async pageOnce(url: string): Promise<Page> {
    return this.watched(url, async (watchdog) => {
      const { response } = await this.follow(url, { accept: 'application/json' }, watchdog);
      const text = (await readLimited(response.body, url, () => watchdog.touch())).toString('utf8');
      const refuse = (what: string) => downloadFailed(`The answer of ${url} ${what}.`, { again: false, url });
      return { value: parseJson(text, refuse), next: nextPage(response.headers, url) };
    });
  }

  /**
   * Bytes of a file, one attempt. `begin` sees the answer before the first byte and may throw; `take` gets every chunk.
   *
   * @throws InfinityError DOWNLOAD_FAILED, ACCESS_DENIED, MODEL_NOT_FOUND, and whatever the callbacks throw
   */
  async bytes(
    url: string,
    { from, etag }: ByteRequest,
    begin: (answer: ByteAnswer) => Promise<void>,
    take: (chunk: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const headers: Record<string, string> = from > 0 ? { range: `bytes=${from}-` } : {};
    if (from > 0 && etag !== undefined) headers['if-range'] = etag;
    await this.watched(url, async (watchdog) => {
      const { response, linked } = await this.follow(url, headers, watchdog);
      await begin(answerOf(response, linked)).catch(async (error) => {
        await response.body?.cancel();
        throw error;
      });
      for await (const chunk of response.body ?? []) {
        watchdog.touch();
        await take(chunk);
      }
    });
  }

  private async watched<T>(url: string, work: (watchdog: Watchdog) => Promise<T>): Promise<T> {
    const watchdog = new Watchdog(this.policy.stall, this.signal);
    try {
      return await work(watchdog);
    } catch (error) {
      throw watchdog.explain(error, url);
    } finally {
      watchdog.stop();
    }
  }

  /** Follows redirects by hand: the token must not leave the endpoint, and digests stand on the redirect itself. */
  private async follow(url: string, headers: Readonly<Record<string, string>>, watchdog: Watchdog) {
    const { endpoint, token } = this.settings;
    let linked: ByteAnswer['linked'] = { etag: undefined, size: undefined };
    let address = new URL(url);
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const trusted = token !== undefined && address.origin === new URL(endpoint).origin;
      const response = await fetch(address, {
        headers: {
          'user-agent': 'node-infinity',
          'accept-encoding': 'identity',
          ...headers,
          ...(trusted ? { authorization: `Bearer ${token}` } : {}),
        },
        redirect: 'manual',
        signal: watchdog.signal,
      });
      watchdog.touch();
      linked = {
        etag: linked.etag ?? response.headers.get('x-linked-etag')?.replace(/^W\/|"/g, ''),
        size: linked.size ?? integerOf(response.headers.get('x-linked-size')),
      };
      if (response.ok) return { response, linked };
      await response.body?.cancel();
      const location = response.status >= 300 && response.status < 400 ? response.headers.get('location') : null;
      if (location === null) throw refusal(response, url);
      if (!URL.canParse(location, address.href)) break;
      address = new URL(location, address);
      if (!/^https?:$/.test(address.protocol)) break;
    }
    throw downloadFailed(`${url} redirects without an end.`, { again: false, url });
  }
}
