/** Whole pictures of a 2B model and the official decoder of 32 bits with random weights, guided at every scale, in bf16. */
import type { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { countFlops } from '../../lib/ops/flops.js';
import type { Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { officialAutoencoderConfig } from '../../lib/tokenizer/config.js';
import type { Decoder } from '../../lib/tokenizer/decoder.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { type CardOptions, milliseconds, type Row, round, summarize } from '../harness.js';
import { decodePicture, drawPicture, drawScales, type PictureParts } from '../picture.js';
import { type Cases, casesOf, modelConfig, squareSchedule } from './cases.js';
import { againstFloor, type Ceilings, launchesAndPeak, openCard, randomise, randomOn } from './measure.js';

/** Pictures before those that count. */
const WARM_UPS = 2;

function decoderOf(device: Device, short: boolean, bits: number): Decoder {
  const official = officialAutoencoderConfig(bits);
  const config = short ? { ...official, base_ch: 32, decoder_ch_mult: [1, 1, 1, 1, 1], num_res_blocks: 1 } : official;
  return placed({ device, dtype: 'bf16' }, () => new Autoencoder(config)).decoder;
}

async function* stages(
  name: string,
  parts: PictureParts,
  { rounds, warmUps, ceilings }: { rounds: number; warmUps: number; ceilings: Ceilings },
): AsyncGenerator<Row> {
  const { device } = parts;
  const sums: Tensor[] = [];
  const flops: Readonly<Record<string, number>> = {
    transformer: await countFlops(device, async () => sums.push(await drawScales(parts))),
    decoder: await countFlops(device, () => decodePicture(parts, sums[0]!)),
  };
  const all = { ...flops, 'transformer and decoder': flops.transformer! + flops.decoder! };
  const extra = new Map<string, Row>([
    ['transformer', await launchesAndPeak(device, async () => (await drawScales(parts)).dispose())],
    ['decoder', await launchesAndPeak(device, () => decodePicture(parts, sums[0]!))],
  ]);
  sums[0]!.dispose();
  const times = new Map<string, number[]>();
  for (let i = -warmUps; i < rounds; i++)
    await drawPicture(parts, (stage, seconds) => {
      if (i >= 0) times.set(stage, [...(times.get(stage) ?? []), seconds]);
    });
  extra.set('transformer and decoder', await launchesAndPeak(device, () => drawPicture(parts, () => undefined)));
  for (const [stage, seconds] of times) {
    const timing = summarize(seconds);
    const counted = Object.entries(all).find(([key]) => key === stage)?.[1];
    yield {
      name: `${name}, ${stage}`,
      ...milliseconds(timing),
      ...extra.get(stage),
      ...(counted && againstFloor({ flops: counted }, timing, ceilings)),
    };
  }
}

async function* drawn(
  { device, ceilings }: { device: Device; ceilings: Ceilings },
  cases: Cases,
  { filter = '', rounds = cases.rounds, short = false }: CardOptions,
): AsyncGenerator<Row> {
  const warmUps = short ? 0 : WARM_UPS;
  const most = Math.max(...cases.pictures.map(({ scales }) => scales));
  const config = modelConfig(cases, most);
  const transformer = placed({ device, dtype: 'bf16' }, () => new InfinityTransformer(config));
  const decoder = decoderOf(device, short, cases.bits);
  for (const module of [transformer, decoder]) {
    randomise(module);
    module.freeze('bf16');
  }
  await device.sync();
  device.trim();
  const weights = device.resetPeak().liveBytes;
  yield { name: 'weights of transformer and decoder', weights_mib: round(weights / 2 ** 20) };
  const text = {
    kv_NCt: randomOn(device, [cases.text_tokens, config.text_channels], 'f32'),
    lens: [cases.text_tokens],
  };
  for (const { name, scales } of cases.pictures) {
    const title = `${cases.model.size} ${name}`;
    if (!title.includes(filter)) continue;
    yield* stages(
      title,
      { device, transformer, decoder, text, schedule: squareSchedule(scales) },
      { rounds, warmUps, ceilings },
    );
  }
}

/** Time by stage; memory of all tensors, weights included; kernels launched. */
export async function* pictures(options: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(options.short ?? false);
  const { device, ceilings, rows } = await openCard(cases);
  yield* rows;
  yield* drawn({ device, ceilings }, cases, options);
  device.close();
}
