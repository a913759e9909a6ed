// Runs a TF.js graph model under Node: float32 images on stdin, float32 outputs on stdout, one JSON line on stderr.
//
//     node tools/tfjs_run.cjs MODEL.json OUTPUT SIDE BATCH REPEATS < images > outputs
//
// OUTPUT: the node whose value is wanted. Images are SIDE x SIDE x 3, run BATCH at a time. With REPEATS over 0 the first
// batch is run that often again, and the JSON line has the milliseconds of each of these runs. Needs the npm packages
// @tensorflow/tfjs-core, -converter and -backend-wasm, found through NODE_PATH.
const fs = require("node:fs");
const path = require("node:path");
const tf = require("@tensorflow/tfjs-core");
const { loadGraphModel } = require("@tensorflow/tfjs-converter");
require("@tensorflow/tfjs-backend-wasm");

async function main() {
  const [file, output, ...numbers] = process.argv.slice(2);
  const [side, batch, repeats] = numbers.map(Number);
  await tf.setBackend("wasm");
  const description = JSON.parse(fs.readFileSync(file, "utf8"));
  const shards = description.weightsManifest.flatMap((group) => group.paths);
  const bytes = Buffer.concat(shards.map((shard) => fs.readFileSync(path.join(path.dirname(file), shard))));
  const model = await loadGraphModel({
    load: async () => ({
      modelTopology: description.modelTopology,
      weightSpecs: description.weightsManifest.flatMap((group) => group.weights),
      weightData: new Uint8Array(bytes).buffer,
    }),
  });
  const given = new Uint8Array(fs.readFileSync(0)).buffer;
  const images = tf.tensor4d(new Float32Array(given), [given.byteLength / (4 * 3 * side * side), side, side, 3]);
  const run = (at) =>
    tf.tidy(() => {
      const count = Math.min(batch, images.shape[0] - at);
      return model.execute(tf.slice(images, at, count), output).dataSync();
    });
  for (let at = 0; at < images.shape[0]; at += batch) fs.writeSync(1, Buffer.from(Float32Array.from(run(at)).buffer));
  const milliseconds = [];
  for (let n = 0; n < repeats; n++) {
    const begun = performance.now();
    run(0);
    milliseconds.push(performance.now() - begun);
  }
  console.error(JSON.stringify({ version: tf.version_core, backend: tf.getBackend(), milliseconds }));
}

main();
