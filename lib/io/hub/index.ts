/** What users of hubs need: pulling, and the way from a source to a folder. */
export { type PullOptions, type PullProgress, type PullResult, pull, resolveModelSource } from './pull.js';
export { isHubSource } from './source.js';
