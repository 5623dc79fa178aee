#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/node_infinity.node. prebuildify calls this same file in place of node-gyp
// (PREBUILD_NODE_GYP), so that cmake-js builds without Python and without a header download.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildAddon, root } from './build-addon.mjs';
import { nativeHash, stampOf } from './ensure-native.mjs';

const self = fileURLToPath(import.meta.url);

if (process.env.PREBUILD_NODE_GYP === self) {
  process.exitCode = buildAddon('Release', 'inherit').status ?? 1;
} else {
  const prebuildify = createRequire(import.meta.url).resolve('prebuildify/bin.js');
  const args = [prebuildify, '--napi', '--strip', '--name', 'node_infinity'];
  const env = { ...process.env, PREBUILD_NODE_GYP: self };
  const { status } = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
  if (status === 0) {
    const binary = join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'node_infinity.node');
    writeFileSync(stampOf(binary), nativeHash());
  }
  process.exitCode = status ?? 1;
}
