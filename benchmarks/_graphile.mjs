// What _peers.py is for the others, for graphile-worker, with the same commands. FOLDER is where npm installed it.
//
//     node _graphile.mjs FOLDER version
//     node _graphile.mjs FOLDER fill URL COUNT KIND
//     node _graphile.mjs FOLDER work URL
//     node _graphile.mjs FOLDER done URL COUNT
//
// It is set up as its documentation says for much throughput: jobs are fetched five hundred at a time, and their ends
// are written together.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";

const [folder, role, url, count, kind] = process.argv.slice(2);
const modules = path.join(folder, "node_modules");
// Read when it is loaded: else it writes a line for every job.
process.env.NO_LOG_SUCCESS = "1";

function load() {
  try {
    return createRequire(path.join(modules, "/"))("graphile-worker");
  } catch (error) {
    console.error(`graphile-worker is not in ${modules}: ${error.code}`);
    process.exit(1);
  }
}

const { Logger, makeWorkerUtils, run } = load();

const worker = {
  connectionString: url,
  concurrentJobs: 24,
  maxPoolSize: 26,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

let begun = false;

// The same job as _peers.py's, of the kind that does nothing.
async function job() {
  if (!begun) {
    begun = true;
    fs.appendFileSync(process.env.BENCH_NOTES, `${Date.now() / 1000}\n`);
  }
}

const roles = {
  async version() {
    const described = path.join(modules, "graphile-worker", "package.json");
    console.log(JSON.parse(fs.readFileSync(described, "utf8")).version);
  },

  async fill() {
    if (kind !== "noop") throw new Error(`jobs of the kind ${kind} are Python's`);
    const quiet = new Logger(() => () => {});
    const utils = await makeWorkerUtils({ connectionString: url, logger: quiet });
    await utils.withPgClient((client) => client.query("DROP SCHEMA IF EXISTS graphile_worker CASCADE"));
    await utils.migrate();
    const jobs = Array.from({ length: Number(count) }, () => ({ identifier: "work", payload: { kind } }));
    for (let start = 0; start < jobs.length; start += 5000) await utils.addJobs(jobs.slice(start, start + 5000));
    await utils.release();
  },

  async work() {
    const runner = await run({ taskList: { work: job }, preset: { worker } });
    await runner.promise;
  },

  // A job that was done is deleted.
  async done() {
    const utils = await makeWorkerUtils({ connectionString: url });
    for await (const _ of readline.createInterface({ input: process.stdin })) {
      const left = await utils.withPgClient((client) =>
        client.query("SELECT count(*)::integer AS jobs FROM graphile_worker._private_jobs"),
      );
      console.log(Number(count) - left.rows[0].jobs);
    }
  },
};

await roles[role]();
