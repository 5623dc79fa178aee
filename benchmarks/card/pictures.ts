/**
 * Whole guided pictures of a 2B model, the released text encoder and the official decoder of 32 bits with random weights, guided
 * at every scale: transformer and decoder in bf16, the text encoder in f32 from matrices in bf16.
 */
import type { Device } from '../../lib/device.js';
import { type Module, placed } from '../../lib/nn/module.js';
import { countFlops } from '../../lib/ops/flops.js';
import type { Tensor } from '../../lib/tensor.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { officialAutoencoderConfig } from '../../lib/tokenizer/config.js';
import type { Decoder } from '../../lib/tokenizer/decoder.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { Recordings } from '../../lib/transformer/recordings.js';
import { type CardOptions, elapsed, milliseconds, type Row, round, summarize, timeInTurns } from '../harness.js';
import { decodePicture, drawPicture, drawScales, type PictureParts, scaleStage } from '../picture.js';
import { type Cases, casesOf, FASTEST, modelConfig, squareSchedule, textConfig } from './cases.js';
import { againstFloor, type Ceilings, launchesAndPeak, openCard, randomise, type Work } from './measure.js';
import { scaleWorks, textWork } from './picture_work.js';

/** Pictures before those that count. */
const WARM_UPS = 2;

interface Networks {
  readonly textEncoder: T5Encoder;
  readonly transformer: InfinityTransformer;
  readonly decoder: Decoder;
}

function decoderOf(short: boolean, bits: number): Decoder {
  const official = officialAutoencoderConfig(bits);
  const config = short ? { ...official, base_ch: 32, decoder_ch_mult: [1, 1, 1, 1, 1], num_res_blocks: 1 } : official;
  return new Autoencoder(config).decoder;
}

/** As a pipeline holds them. */
function networksOf(device: Device, cases: Cases, short: boolean): Networks {
  const most = Math.max(...cases.pictures.map(({ scales }) => scales));
  const rounded = <M extends Module>(make: () => M): M => placed({ device, dtype: 'bf16' }, make);
  const networks = {
    textEncoder: placed({ device }, () => new T5Encoder(textConfig(cases))),
    transformer: rounded(() => new InfinityTransformer(modelConfig(cases, most))),
    decoder: rounded(() => decoderOf(short, cases.bits)),
  };
  for (const network of Object.values(networks)) {
    randomise(network);
    network.freeze('bf16');
  }
  return networks;
}

const WHOLE = 'text encoder, transformer and decoder';
const SUBMITTED = 'transformer, commands submitted one by one';

/** What every stage must do at least, one part behind the other. */
async function worksOf(parts: PictureParts, text: Work, sum: Tensor): Promise<ReadonlyMap<string, readonly Work[]>> {
  const { device, transformer, schedule } = parts;
  const scales = scaleWorks(transformer.config, schedule, parts.text.lens[0]!);
  const decoder = { flops: await countFlops(device, () => decodePicture(parts, sum)) };
  return new Map<string, readonly Work[]>([
    ...scales.map((work, k) => [scaleStage(schedule, k), [work]] as const),
    ['transformer', scales],
    [SUBMITTED, scales],
    ['decoder', [decoder]],
    ['transformer and decoder', [...scales, decoder]],
    [WHOLE, [text, ...scales, decoder]],
  ]);
}

async function* stages(
  name: string,
  { parts, ids, textEncoder }: { parts: PictureParts; ids: readonly number[]; textEncoder: T5Encoder },
  { rounds, warmUps, ceilings }: { rounds: number; warmUps: number; ceilings: Ceilings },
): AsyncGenerator<Row> {
  const { device } = parts;
  const fromPrompt = async (): Promise<void> => {
    const text = textEncoder.encode([ids]);
    const sum = await drawScales({ ...parts, text });
    text.kv_NCt.dispose();
    await decodePicture(parts, sum);
    sum.dispose();
  };
  const sum = await drawScales(parts);
  const works = await worksOf(parts, textWork(textEncoder.config, ids.length), sum);
  const extra = new Map<string, Row>([
    ['transformer', await launchesAndPeak(device, async () => (await drawScales(parts)).dispose())],
    ['decoder', await launchesAndPeak(device, () => decodePicture(parts, sum))],
  ]);
  sum.dispose();
  extra.set('transformer and decoder', await launchesAndPeak(device, () => drawPicture(parts, () => undefined)));
  extra.set(WHOLE, await launchesAndPeak(device, fromPrompt));
  const times = new Map<string, number[]>();
  const note = (stage: string, seconds: number): void => {
    times.set(stage, [...(times.get(stage) ?? []), seconds]);
  };
  for (let i = -warmUps; i < rounds; i++) {
    await drawPicture(parts, i < 0 ? () => undefined : note);
    const seconds = await elapsed(fromPrompt);
    if (i >= 0) note(WHOLE, seconds);
  }
  const submitted = { ...parts, recordings: undefined };
  for (let i = 0; i < rounds; i++) note(SUBMITTED, await elapsed(async () => (await drawScales(submitted)).dispose()));
  for (const [stage, seconds] of times) {
    const timing = summarize(seconds);
    const work = works.get(stage)!;
    yield {
      name: `${name}, ${stage}`,
      ...milliseconds(timing),
      ...extra.get(stage),
      ...againstFloor(work, timing, ceilings),
    };
  }
}

async function* drawn(
  { device, ceilings }: { device: Device; ceilings: Ceilings },
  cases: Cases,
  { filter = '', rounds = cases.rounds, short = false }: CardOptions,
): AsyncGenerator<Row> {
  const warmUps = short ? 0 : WARM_UPS;
  const { textEncoder, transformer, decoder } = networksOf(device, cases, short);
  await device.sync();
  device.trim();
  const weights = device.resetPeak().liveBytes;
  yield { name: 'weights of all three networks', weights_mib: round(weights / 2 ** 20) };
  const ids = Array.from({ length: cases.text_tokens }, (_, i) => i + 1);
  const call = () => textEncoder.encode([ids]);
  const text = call();
  const name = `text encoder, ${ids.length} tokens`;
  if (name.includes(filter)) {
    const row = await launchesAndPeak(device, () => call().kv_NCt.dispose());
    const [time] = await timeInTurns([{ device, call }], rounds);
    yield {
      name,
      ...milliseconds(time!),
      ...row,
      ...againstFloor(textWork(textEncoder.config, ids.length), time!, ceilings),
    };
  }
  // As the pipeline has them on a card.
  const recordings = new Recordings(transformer);
  for (const { name, scales } of cases.pictures) {
    const title = `${cases.model.size} ${name}`;
    if (!title.includes(filter)) continue;
    const parts = { device, transformer, decoder, text, schedule: squareSchedule(scales), recordings };
    yield* stages(title, { parts, ids, textEncoder }, { rounds, warmUps, ceilings });
  }
  text.kv_NCt.dispose();
}

/**
 * Time by stage and by scale; memory of all tensors, weights included; kernels launched. Products go by rule, then by whichever way
 * is the fastest.
 */
export async function* pictures(options: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(options.short ?? false);
  for (const deterministic of [true, false]) {
    const { device, ceilings, rows } = await openCard(cases, { deterministic });
    const named = (row: Row): Row => (deterministic ? row : { ...row, name: `${row.name}${FASTEST}` });
    yield* rows.map(named);
    for await (const row of drawn({ device, ceilings }, cases, options)) yield named(row);
    device.close();
  }
}
