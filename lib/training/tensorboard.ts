/**
 * Event files of TensorBoard: records of a length, a message and two checksums. Sources: TensorFlow, tensorflow/core/util/event.proto,
 * framework/summary.proto, lib/io/record_writer.h.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AppendFile } from '../io/append_file.js';
import { crc32c } from '../io/crc32c.js';
import { writeError } from '../io/output_file.js';
import { bytesField, doubleField, type Field, floatField, integerField } from './protobuf.js';

/** Field numbers of the messages. */
const Event = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const;
const Summary = { value: 1 } as const;
const Value = { tag: 1, simpleValue: 2, image: 4 } as const;
const Picture = { height: 1, width: 2, colorspace: 3, encoded: 4 } as const;
const SessionLog = { status: 1 } as const;

const START = 1;
const RGB = 3;
const MASK_DELTA = 0xa282ead8;

/** A checksum that can itself be checksummed. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + MASK_DELTA) >>> 0;
}

function record(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(message.length + 16);
  bytes.writeBigUInt64LE(BigInt(message.length), 0);
  bytes.writeUInt32LE(masked(bytes.subarray(0, 8)), 8);
  bytes.set(message, 12);
  bytes.writeUInt32LE(masked(message), message.length + 12);
  return bytes;
}

/** An encoded picture and its size in pixels. */
export interface EncodedPicture {
  readonly width: number;
  readonly height: number;
  readonly png: Uint8Array;
}

/** Writes one event file. Values of a step stand in it as soon as they are handed over. */
export class TensorBoardWriter {
  private constructor(private readonly file: AppendFile) {}

  /**
   * Begins a file of its own in `directory`. Earlier files of a run that goes on there count up to `step`: TensorBoard forgets what
   * they tell of later ones.
   * @throws InfinityError IO_ERROR, DISK_FULL
   */
  static async create(directory: string, step: number): Promise<TensorBoardWriter> {
    await mkdir(directory, { recursive: true }).catch((error) => {
      throw writeError(directory, error);
    });
    // Files are read in the order of their names, and another of the same second must not take this one's.
    const seconds = String(Math.floor(Date.now() / 1000)).padStart(10, '0');
    const name = `events.out.tfevents.${seconds}.node-infinity.${randomBytes(4).toString('hex')}`;
    const writer = new TensorBoardWriter(await AppendFile.open(join(directory, name)));
    await writer.event(0, bytesField(Event.fileVersion, 'brain.Event:2'));
    await writer.event(step + 1, bytesField(Event.sessionLog, integerField(SessionLog.status, START)));
    return writer;
  }

  /** One number under each name, such as "metrics/psnr". @throws InfinityError IO_ERROR, DISK_FULL */
  scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    const fields = Object.entries(values).map(([name, value]) =>
      bytesField(Summary.value, bytesField(Value.tag, name), floatField(Value.simpleValue, value)),
    );
    return this.event(step, bytesField(Event.summary, ...fields));
  }

  /** @throws InfinityError IO_ERROR, DISK_FULL */
  picture(step: number, name: string, { width, height, png }: EncodedPicture): Promise<void> {
    const picture = [
      integerField(Picture.height, height),
      integerField(Picture.width, width),
      integerField(Picture.colorspace, RGB),
      bytesField(Picture.encoded, png),
    ];
    const value = bytesField(Summary.value, bytesField(Value.tag, name), bytesField(Value.image, ...picture));
    return this.event(step, bytesField(Event.summary, value));
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  private event(step: number, what: Field): Promise<void> {
    const message = Buffer.concat([
      doubleField(Event.wallTime, Date.now() / 1000),
      integerField(Event.step, step),
      what,
    ]);
    return this.file.append(record(message));
  }
}
