import { pause } from "../../src/base/time.js";
import { connect } from "../../src/db/sql.js";
import { workflowBundle } from "../../src/temporal/bundle.js";
import { openClient } from "../../src/temporal/client.js";
import { installRuntime, type RunOptions, runWorkers } from "../../src/temporal/run.js";
import { allActivities } from "../../src/worker.js";
import { configFor, DATA_DIR, quietLog } from "./world.js";

/** What a worker that is going to be killed is told, as JSON in its first argument. */
export interface Fate {
  place: { address: string; namespace: string };
  databaseUrl: string;
  /** Activities that do their work and then never come back. */
  lostIn: string[];
}

type Activity = (...args: never[]) => Promise<unknown>;

const fate = JSON.parse(process.argv[2] ?? "") as Fate;
installRuntime(quietLog);
const sql = connect(fate.databaseUrl, { max: 40, name: "test mortal worker" });
const { client } = openClient(fate.place);
const activities = allActivities(sql, client, configFor(fate.place, fate.databaseUrl));

/** The work is done and committed, its answer is not told: the worst moment for being killed. */
const losing =
  (name: string, activity: Activity): Activity =>
  async (...args) => {
    const answer = await activity(...args);
    if (!fate.lostIn.includes(name)) return answer;
    process.send?.({ lost: name });
    await pause(2 ** 30);
  };

function mortal<Queue extends object>(queue: Queue): Queue {
  const all = Object.entries(queue) as [string, Activity][];
  return Object.fromEntries(all.map(([name, it]) => [name, losing(name, it)])) as Queue;
}

const options: RunOptions = {
  place: fate.place,
  codePath: await workflowBundle(DATA_DIR),
  version: "mortal",
  slots: sql.options.max,
  activities: { ...activities, jobs: mortal(activities.jobs), books: mortal(activities.books) },
  signal: new AbortController().signal,
  onReady: () => process.send?.({ ready: true }),
};
await runWorkers(options);
