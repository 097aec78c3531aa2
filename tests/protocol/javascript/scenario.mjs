// node scenario.mjs URL TENANT DATABASE CHAPTER...: drives the official client against a server, and prints a line a step.
// The chapters build on each other in the order in which they stand here; test_javascript_client.py compares the lines.
// PATIENT=yes in the environment asks again where a server says that its database is locked, as the reference may.

import { ChromaClient } from "chromadb";
import { administration } from "./administration.mjs";
import { collections } from "./collections.mjs";
import { records } from "./records.mjs";
import { filters } from "./filters.mjs";
import { queries } from "./queries.mjs";
import { refusals } from "./refusals.mjs";
import { reset, system, unimplemented } from "./system.mjs";
import { Reporter } from "./reporting.mjs";

const CHAPTERS = { system, administration, collections, records, filters, queries, refusals, unimplemented, reset };

const [url, tenant, database, ...chosen] = process.argv.slice(2);
const { hostname: host, port } = new URL(url);
const address = { host, port: Number(port), ssl: false };
const report = new Reporter({ url: url.replace(/\/$/, ""), tenant, database, patient: process.env.PATIENT === "yes" });
const client = new ChromaClient({ ...address, tenant, database });

for (const [name, chapter] of Object.entries(CHAPTERS)) {
  if (!chosen.includes(name)) continue;
  report.chapter = name;
  await chapter({ report, client, address, tenant, database });
}
