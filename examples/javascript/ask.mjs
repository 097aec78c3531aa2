// Chroma's JavaScript client over an avatar: put texts, ask a question. The service embeds both.
import { ChromaClient } from "chromadb";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";

const service = new URL(process.env.VECTORPOOL_URL ?? "http://localhost:8000");
const library = process.argv[2] ?? "../library";
const question = process.argv[3] ?? "How much does a night cost for a child?";

// The model of the service, so that this program needs none.
async function embed(texts) {
  const answer = await fetch(new URL("/embed", service), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ texts }),
  });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return (await answer.json()).embeddings;
}

// The tenant is the user, and the database is the avatar.
const client = new ChromaClient({
  host: service.hostname,
  port: Number(service.port || 80),
  ssl: service.protocol === "https:",
  tenant: "42",
  database: "avatar-9",
});
const hut = await client.getOrCreateCollection({ name: "hut", embeddingFunction: null });

const records = [];
for (const name of (await readdir(library)).filter((each) => each.endsWith(".md")).sort()) {
  const paragraphs = (await readFile(join(library, name), "utf8")).split("\n\n");
  paragraphs.forEach((text, number) => {
    if (!text.startsWith("#")) records.push({ id: `${name}-${number}`, text: text.trim(), source: name });
  });
}
await hut.upsert({
  ids: records.map((each) => each.id),
  embeddings: await embed(records.map((each) => each.text)),
  documents: records.map((each) => each.text),
  metadatas: records.map((each) => ({ source: each.source })),
});

const found = await hut.query({ queryEmbeddings: await embed([question]), nResults: 2 });
found.documents[0].forEach((text, place) => console.log(`${found.metadatas[0][place].source}: ${text}`));
