import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { Device } from '../../lib/device.js';
import { native, packageRoot } from '../../lib/native.js';
import { gelu } from '../../lib/ops/elementwise.js';
import { Tensor } from '../../lib/tensor.js';

const run = promisify(execFile);
native();
/** Path of the loaded addon, for threads and processes that know nothing of TypeScript. */
const root = JSON.stringify(packageRoot());
const load = `const addon = require('node-gyp-build')(${root});`;
const open = `${load}
  const words = new Uint32Array(1024);
  const device = addon.open(words, { threads: 2 });`;
/** A long job: many reads of a large tensor, none awaited. */
const busy = `${open}
  const handle = addon.alloc(device, 1 << 26);
  const pending = Array.from({ length: 64 }, () => addon.read(device, 0, handle, 0, new Uint8Array(1 << 26)));`;

async function child(script: string, env: Record<string, string> = {}): Promise<string> {
  const { stdout } = await run(process.execPath, ['-e', script], {
    cwd: packageRoot(),
    env: { ...process.env, ...env },
    timeout: 15_000,
  });
  return stdout.trim();
}

describe('environments', () => {
  it('two worker threads each load the addon and read their own numbers', async () => {
    const script = `${open}
      const { parentPort, workerData } = require('node:worker_threads');
      (async () => {
        const handle = addon.alloc(device, 4);
        addon.upload(device, 0, handle, 0, new Uint8Array(Float32Array.of(workerData).buffer));
        const out = new Float32Array(1);
        await addon.read(device, 0, handle, 0, new Uint8Array(out.buffer));
        addon.close(device);
        parentPort.postMessage(out[0]);
      })();`;
    const workers = [7, 9].map((n) => new Worker(script, { eval: true, workerData: n }));
    const ends = workers.map((w) => once(w, 'exit'));
    const answers = await Promise.all(workers.map((w) => once(w, 'message')));
    assert.deepEqual(answers, [[7], [9]]);
    assert.deepEqual(await Promise.all(ends), [[0], [0]]);
  });

  it('a worker thread that is terminated in the middle of its work takes nothing down', async () => {
    const worker = new Worker(`${busy} require('node:worker_threads').parentPort.postMessage('busy');`, { eval: true });
    await once(worker, 'message');
    await worker.terminate();
    const device = Device.default();
    const [x, y] = [Tensor.from([1], [1]), Tensor.from([2], [1])];
    const z = gelu(x);
    assert.ok(Math.abs((await z.readFloats())[0]! - 0.8412) < 1e-3);
    for (const t of [x, y, z]) t.dispose();
    await device.sync();
  });

  it('process.exit() with work pending ends at once and cleanly', async () => {
    assert.equal(await child(`${busy} console.log(pending.length); process.exit(0);`), '64');
  });

  it('a process ends by itself once nothing is pending, and not before', async () => {
    const script = `${open}
      const handle = addon.alloc(device, 4);
      addon.read(device, 0, handle, 0, new Uint8Array(4)).then(() => console.log('read'));`;
    assert.equal(await child(script), 'read');
  });

  it('NODE_INFINITY_TRACE writes one Chrome trace event a command', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'infinity-trace-'));
    const trace = join(folder, 'trace.json');
    const before = process.env.NODE_INFINITY_TRACE;
    process.env.NODE_INFINITY_TRACE = trace;
    const device = Device.create('cpu', { threads: 1 });
    if (before === undefined) delete process.env.NODE_INFINITY_TRACE;
    else process.env.NODE_INFINITY_TRACE = before;
    const x = Tensor.from([1, 2], [2], 'f32', device);
    gelu(x);
    await device.sync();
    device.close();
    const events = JSON.parse(await readFile(trace, 'utf8')) as { ph: string; name: string; dur: number }[];
    assert.deepEqual(
      events.map((e) => [e.ph, e.name]),
      [['X', 'gelu(f32[2]) -> f32[2]']],
    );
    assert.ok(events[0]!.dur >= 0);
    await rm(folder, { recursive: true });
  });
});
