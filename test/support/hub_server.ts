/** A hub on this machine that misbehaves on demand. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

export interface HostedFile {
  content: Buffer;
  /** Stored as a large file: named by SHA-256, served by a redirect to another origin. */
  large?: boolean;
  /** What the list says instead of the truth. */
  listed?: { path?: string; size?: number; oid?: string };
}

/** Answers one request for a file instead of the server; the next request gets the next fault. */
export type Fault = (response: ServerResponse, file: HostedFile, request: IncomingMessage) => void;

export function gitDigest(content: Uint8Array): string {
  return createHash('sha1').update(`blob ${content.byteLength}\0`).update(content).digest('hex');
}

export function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Sends `content`, or the part that a Range asks for when If-Range allows it. */
export function sendFile({ content }: HostedFile, request: IncomingMessage, response: ServerResponse): void {
  const etag = `"${sha256(content).slice(0, 16)}"`;
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const partial = from > 0 && [undefined, etag].includes(request.headers['if-range'] as string | undefined);
  const body = partial ? content.subarray(from) : content;
  const range = partial ? { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` } : {};
  response.writeHead(partial ? 206 : 200, { etag, 'content-length': body.length, ...range });
  response.end(body);
}

export class HubServer {
  readonly files = new Map<string, HostedFile>();
  readonly faults = new Map<string, Fault[]>();
  /** "GET path [range] [token]" of every request, in order. */
  readonly log: string[] = [];
  /** Statuses for the next requests to the programming interface, before it answers. */
  readonly apiStatuses: { status: number; headers?: Record<string, string> }[] = [];
  /** Entries of one page of the list. */
  pageSize = 1000;
  commit = COMMIT;
  private constructor(
    private readonly hub: Server,
    private readonly store: Server,
  ) {}

  static async start(): Promise<HubServer> {
    const handlers: ((request: IncomingMessage, response: ServerResponse, store: boolean) => void)[] = [];
    const listen = async (store: boolean) => {
      const server = createServer((request, response) => handlers[0]!(request, response, store));
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      return server;
    };
    const server = new HubServer(await listen(false), await listen(true));
    handlers.push((request, response, store) => server.answer(request, response, store));
    return server;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.hub.address() as AddressInfo).port}`;
  }

  get storage(): string {
    return `http://127.0.0.1:${(this.store.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const server of [this.hub, this.store]) {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    }
  }

  private answer(request: IncomingMessage, response: ServerResponse, store: boolean): void {
    const url = new URL(request.url ?? '/', this.endpoint);
    const { range, authorization } = request.headers;
    const where = store ? 'store' : 'hub';
    this.log.push([where, url.pathname, range, authorization].filter(Boolean).join(' '));
    const api = /^\/api\/models\/org\/repo\/(revision|tree)\/(.+)$/.exec(url.pathname);
    const path = decodeURIComponent(/^\/org\/repo\/resolve\/[^/]+\/(.+)$/.exec(url.pathname)?.[1] ?? '');
    const file = this.files.get(path);
    if (api && !store) this.answerApi(api[1]!, url, response);
    else if (!file) response.writeHead(404, { 'x-error-message': 'Entry not found' }).end();
    else if (file.large && !store) this.redirect(file, url, response);
    else (this.faults.get(path)?.shift() ?? ((r, f, q) => sendFile(f, q, r)))(response, file, request);
  }

  private answerApi(kind: string, url: URL, response: ServerResponse): void {
    const failure = this.apiStatuses.shift();
    if (failure) {
      response.writeHead(failure.status, failure.headers).end('{"error":"no"}');
      return;
    }
    if (kind === 'revision') {
      response.end(JSON.stringify({ sha: this.commit, siblings: [] }));
      return;
    }
    const entries = [...this.files].map(([path, { content, large, listed = {} }]) => {
      const size = listed.size ?? content.length;
      const oid = listed.oid ?? gitDigest(content);
      const lfs = large ? { lfs: { oid: listed.oid ?? sha256(content), size, pointerSize: 134 } } : {};
      return { type: 'file', path: listed.path ?? path, size, oid, ...lfs };
    });
    const from = Number(url.searchParams.get('cursor') ?? 0);
    const to = from + this.pageSize;
    if (to < entries.length)
      response.setHeader('link', `<${this.endpoint}${url.pathname}?recursive=true&cursor=${to}>; rel="next"`);
    response.end(
      JSON.stringify([{ type: 'directory', path: 'folder', size: 0, oid: '0' }, ...entries.slice(from, to)]),
    );
  }

  private redirect({ content }: HostedFile, url: URL, response: ServerResponse): void {
    response.writeHead(302, {
      location: `${this.storage}${url.pathname}`,
      'x-linked-etag': `"${sha256(content)}"`,
      'x-linked-size': content.length,
      'x-repo-commit': this.commit,
    });
    response.end();
  }
}
