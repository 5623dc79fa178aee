// Prints the Node-API header folders as a CMake list, for a cmake run that cmake-js did not start.
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const fromCmakeJs = createRequire(require.resolve('cmake-js/package.json'));
const folders = [fromCmakeJs('node-api-headers').include_dir, require('node-addon-api').include_dir];
process.stdout.write(folders.map((folder) => folder.replaceAll('"', '')).join(';'));
