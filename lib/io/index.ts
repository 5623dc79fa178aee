/** What users of pictures need: the class, reading, the formats, the name of standard output. */
export {
  type EncodeOptions,
  formatOfPath,
  IMAGE_FORMATS,
  Image,
  type ImageFormat,
  loadImage,
  loadImageCodec,
} from './image.js';
export { STDOUT, writeOutput } from './output_file.js';
export type { Pixels } from './pixels.js';
export type { Metadata } from './png_metadata.js';
