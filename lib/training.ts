/** The `node-infinity/training` entry point. */
export * from './training/index.js';
