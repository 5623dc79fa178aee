/** What trainings keep of what they have computed: digests of files, features of pictures and captions. */
import { resolve } from 'node:path';
import { BlobCache } from '../io/blob_cache.js';
import type { RunConfig } from './config.js';

const GIGABYTE = 1e9;

/** The cache that a config names. */
export function openCache({ cache, cache_limit }: Pick<RunConfig, 'cache' | 'cache_limit'>): BlobCache | undefined {
  if (cache === undefined) return undefined;
  return new BlobCache(resolve(cache), cache_limit === undefined ? undefined : cache_limit * GIGABYTE);
}
