/** Every reader of files that strangers make. */
import type { FuzzTarget } from '../target.js';
import { bits } from './bits.js';
import { config } from './config.js';
import { png } from './png.js';
import { pth } from './pth.js';
import { safetensors } from './safetensors.js';
import { spiece, tokenizer } from './text.js';

export const targets: readonly FuzzTarget[] = [pth, safetensors, tokenizer, spiece, bits, png, config];
