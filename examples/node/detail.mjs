// node detail.mjs photo.png out.png --pipeline base --box 40,50,80,100 --prompt "a smiling face"

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { SegsClient, SegsError } from "./segs.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string", default: "127.0.0.1:8001" },
    pipeline: { type: "string" },
    box: { type: "string", multiple: true, default: [] },
    prompt: { type: "string", default: "" },
    steps: { type: "string", default: "20" },
    seed: { type: "string", default: "0" },
    tls: { type: "boolean", default: false },
    timeout: { type: "string", default: "300" },
  },
});
const [source, target] = positionals;
if (!source || !target || !values.pipeline || values.box.length === 0) {
  console.error("usage: node detail.mjs IN OUT.png --pipeline NAME --box X1,Y1,X2,Y2 [--prompt …]");
  process.exit(2);
}

const client = new SegsClient(values.url, { apiKey: process.env.SEGS_API_KEY, tls: values.tls });
const cancel = new AbortController();
process.once("SIGINT", () => cancel.abort());
try {
  const { image, report } = await client.detail(
    await readFile(source),
    {
      pipeline: values.pipeline,
      prompt: values.prompt,
      steps: Number(values.steps),
      seed: Number(values.seed),
      segs: { items: values.box.map((box) => ({ bbox: box.split(",").map(Number) })) },
      output: { image: "png" },
    },
    { timeoutS: Number(values.timeout), signal: cancel.signal },
  );
  await writeFile(target, image);
  for (const seg of report.segs) {
    console.log(`${seg.index} ${seg.status} ${seg.bbox} seed ${seg.seed} ${seg.sample_s} s`);
  }
} catch (error) {
  if (!(error instanceof SegsError)) throw error;
  console.error(`${error.code}: ${error.message} (request ${error.requestId})`);
  process.exitCode = error.code === "INVALID_ARGUMENT" ? 2 : 1;
} finally {
  client.close();
}
