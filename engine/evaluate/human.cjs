// @vladmandic/human as it is installed, for the recogniser of engine/evaluate/installed.py.
//
//     node human.cjs NODE_MODULES < photos > lines
//
// A photo on stdin: height and width as little-endian uint32, then RGB bytes. A line on stdout for each: the JSON of
// its faces, [{"box": [x, y, width, height], "embedding": [1024 numbers]}, ...]. Reads nothing but files.
const fs = require("node:fs");
const path = require("node:path");
const { fileURLToPath, pathToFileURL } = require("node:url");

const modules = process.argv[2];
const human = path.join(modules, "@vladmandic/human");
console.log = console.error; // the library reports there, and stdout is for the lines
globalThis.fetch = async (url) => new Response(fs.readFileSync(fileURLToPath(url))); // Node's knows no file: addresses

const off = { enabled: false };
const config = {
  backend: "wasm",
  wasmPath: path.join(modules, "@tensorflow/tfjs-backend-wasm/wasm-out/"),
  modelBasePath: pathToFileURL(path.join(human, "models")).href + "/",
  cacheSensitivity: 0, // photos are no video: nothing is taken over from the one before
  face: { detector: { maxDetected: 10 }, iris: off, emotion: off, antispoof: off, liveness: off },
  body: off,
  hand: off,
  object: off,
  gesture: off,
  segmentation: off,
};

async function* photos() {
  let parts = [];
  let held = 0;
  let wanted = 8;
  let size = null;
  for await (const part of process.stdin) {
    parts.push(part);
    held += part.length;
    while (held >= wanted) {
      const rest = Buffer.concat(parts);
      const taken = rest.subarray(0, wanted);
      parts = [rest.subarray(wanted)];
      held -= wanted;
      if (size === null) {
        size = [taken.readUInt32LE(0), taken.readUInt32LE(4)];
        wanted = 3 * size[0] * size[1];
      } else {
        yield { size, pixels: new Uint8Array(taken) };
        size = null;
        wanted = 8;
      }
    }
  }
}

async function main() {
  const { Human } = require(path.join(human, "dist/human.node-wasm.js"));
  const library = new Human(config);
  await library.load();
  for await (const { size, pixels } of photos()) {
    const tensor = library.tf.tensor3d(pixels, [...size, 3], "int32");
    const result = await library.detect(tensor);
    library.tf.dispose(tensor);
    if (result.error) throw new Error(result.error);
    const faces = result.face.map(({ box, embedding }) => ({ box, embedding: embedding ?? null }));
    if (faces.some(({ embedding }) => embedding === null)) throw new Error("a face without an embedding");
    process.stdout.write(JSON.stringify(faces) + "\n");
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
