/** What users of hubs need: pulling, the way from a source to a folder, and back to a name. */
export { repositoryOf } from './cache.js';
export { type PullOptions, type PullProgress, type PullResult, pull, resolveModelSource } from './pull.js';
