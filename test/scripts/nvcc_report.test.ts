/** The parser and the judgement of scripts/nvcc-report.mjs, on what ptxas printed and on tables of a few lines. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../lib/native.js';

interface Kernel {
  readonly symbol: string;
  readonly architecture: string;
  readonly registers: number;
  readonly spilled: number;
  readonly shared: number;
}
interface Report {
  parsePtxas(text: string): Kernel[];
  asynchronousLosses(text: string): string[];
  kernelName(demangled: string): string;
  tableLines(kernels: readonly (Kernel & { name: string })[]): string[];
  complaints(lines: readonly string[], allowed: readonly string[]): string[];
}

const script = join(packageRoot(), 'scripts/nvcc-report.mjs');
const printed = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN1aEv' for 'sm_80'
ptxas info    : Function properties for _ZN1aEv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for __internal_udiv64
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 8 bytes cumulative stack size, 4224 bytes smem, 568 bytes cmem[0]
ptxas info    : Compile time = 70.981 ms
ptxas info    : Compiling entry function '_ZN1bEv' for 'sm_90a'
ptxas info    : Function properties for _ZN1bEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 15 registers, used 0 barriers
`;

describe('nvcc-report', () => {
  let report: Report;
  before(async () => {
    report = (await import(pathToFileURL(script).href)) as Report;
  });

  it('reads registers, spills and shared memory of each kernel', () => {
    assert.deepEqual(report.parsePtxas(printed), [
      { symbol: '_ZN1aEv', architecture: 'sm_80', registers: 32, spilled: 12, shared: 4224 },
      { symbol: '_ZN1bEv', architecture: 'sm_90a', registers: 15, spilled: 0, shared: 0 },
    ]);
    assert.deepEqual(report.parsePtxas('nvcc warning : nothing to report'), []);
  });
  it('finds what ptxas says of warpgroups that wait for each other', () => {
    const loss =
      'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in _ZN1bEv';
    assert.deepEqual(report.asynchronousLosses(`${printed}${loss}\n`), [loss]);
    assert.deepEqual(report.asynchronousLosses(printed), []);
  });
  it('names a kernel by its template arguments, without namespaces, result and parameters', () => {
    const names: [string, string][] = [
      [
        'void infinity::cuda::mapKernel<4, float, infinity::cuda::InFloat<infinity::cuda::(anonymous namespace)::Add> >(float*, long)',
        'mapKernel<4, float, InFloat<Add>>',
      ],
      ['infinity::cuda::(anonymous namespace)::clipFactorKernel(float const*, long, float*)', 'clipFactorKernel'],
      ['void infinity::cuda::k<void (*)(int)>(int)', 'k<void (*)(int)>'],
    ];
    for (const [demangled, name] of names) assert.equal(report.kernelName(demangled), name);
  });
  it('sorts the lines of the table', () => {
    const kernels = report.parsePtxas(printed).map((k, i) => ({ ...k, name: ['z k<a, b>', 'y k'][i]! }));
    assert.deepEqual(report.tableLines(kernels), ['y k sm_90a 15 0 0', 'z k<a, b> sm_80 32 12 4224']);
  });
  it('complains about spills, more registers, unknown kernels and ones that are gone, and about nothing else', () => {
    const allowed = ['f a<x, y> sm_80 32 0 0', 'f b sm_80 40 0 0'];
    assert.deepEqual(report.complaints(['f a<x, y> sm_80 30 0 128', 'f b sm_80 40 0 0'], allowed), []);
    assert.match(report.complaints(['f a<x, y> sm_80 33 0 0', 'f b sm_80 40 0 0'], allowed).join(), /33.*allows 32/);
    assert.match(report.complaints(['f a<x, y> sm_80 32 4 0', 'f b sm_80 40 0 0'], allowed).join(), /spills 4 bytes/);
    assert.match(report.complaints([...allowed, 'f c sm_80 8 0 0'], allowed).join(), /^f c sm_80 is not in the table$/);
    assert.match(report.complaints([allowed[0]!], allowed).join(), /^f b sm_80 is in the table/);
  });
  it('says that nvcc is missing, and succeeds', function () {
    if (process.platform === 'win32') this.skip(); // tools are looked up in another way there
    const env = { PATH: '', CUDA_HOME: '/nowhere' };
    const { status, stdout } = spawnSync(process.execPath, [script], { env, encoding: 'utf8' });
    assert.equal(status, 0);
    assert.match(stdout, /nvcc was not found/);
  });
});
