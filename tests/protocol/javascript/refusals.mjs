// What is refused: by the client before it asks, and by the server, whose status gives the exception its class.

import { EVERYTHING } from "./records.mjs";

export async function refusals({ report, client }) {
  const collection = await client.createCollection({ name: "refusals", embeddingFunction: null });
  await collection.add({ ids: ["a", "b"], embeddings: [[1, 2, 3], [3, 2, 1]], documents: ["one", "two"], metadatas: [{ n: 1 }, { n: 2 }] });

  // The server's word.
  await report.refused("add another dimension", () => collection.add({ ids: ["c"], embeddings: [[1, 2]] }));
  await report.refused("upsert another dimension", () => collection.upsert({ ids: ["a"], embeddings: [[1, 2, 3, 4]] }));
  await report.refused("update to another dimension", () => collection.update({ ids: ["a"], embeddings: [[1]] }));
  await report.refused("two dimensions in a batch", () => collection.add({ ids: ["c", "d"], embeddings: [[1, 2, 3], [1, 2]] }));
  await report.refused("query another dimension", () => collection.query({ queryEmbeddings: [[1, 2]] }));
  await report.refused("an empty id", () => collection.add({ ids: [""], embeddings: [[1, 2, 3]] }));
  await report.refused("not a number", () => collection.add({ ids: ["c"], embeddings: [[1, NaN, 3]] }));
  await report.refused("infinity", () => collection.query({ queryEmbeddings: [[1, Infinity, 3]] }));
  await report.refused("a negative limit", () => collection.get({ limit: -1 }));
  await report.refused("a limit that is no number", () => collection.get({ limit: "ten" }));
  await report.refused("ids of a wrong type", () => client.collection(collection.id).query({ queryEmbeddings: [["a", "b", "c"]] }));
  await report.refused("query an id that was deleted", async () => {
    await collection.add({ ids: ["gone"], embeddings: [[0, 0, 0]] });
    await collection.delete({ ids: ["gone"] });
    await collection.query({ queryEmbeddings: [[1, 2, 3]], ids: ["gone"] });
  });
  const nowhere = { "an id of nothing": "00000000-0000-4000-8000-000000000000", "no id at all": "not-an-id" };
  for (const [name, id] of Object.entries(nowhere)) {
    const nothing = client.collection(id);
    await report.refused(`count ${name}`, () => nothing.count());
    await report.refused(`get ${name}`, () => nothing.get());
    await report.refused(`add to ${name}`, () => nothing.add({ ids: ["a"], embeddings: [[1]] }));
    await report.refused(`query ${name}`, () => nothing.query({ queryEmbeddings: [[1]] }));
    await report.refused(`delete from ${name}`, () => nothing.delete({ ids: ["a"] }));
  }

  // The client's own word, before any request: the same with every server, or the client is another one.
  await report.refused("ids twice", () => collection.add({ ids: ["x", "x"], embeddings: [[1, 2, 3], [1, 2, 3]] }));
  await report.refused("lists of two lengths", () => collection.add({ ids: ["x", "y"], embeddings: [[1, 2, 3]] }));
  await report.refused("no embeddings and no documents", () => collection.add({ ids: ["x"] }));
  await report.refused("documents without an embedding function", () => collection.add({ ids: ["x"], documents: ["x"] }));
  await report.refused("a text to query without one", () => collection.query({ queryTexts: ["x"] }));
  await report.refused("empty metadata", () => collection.add({ ids: ["x"], embeddings: [[1, 2, 3]], metadatas: [{}] }));
  await report.refused("metadata of two types in a list", () =>
    collection.add({ ids: ["x"], embeddings: [[1, 2, 3]], metadatas: [{ list: [1, "two"] }] }),
  );
  await report.refused("nested metadata", () => collection.add({ ids: ["x"], embeddings: [[1, 2, 3]], metadatas: [{ in: { side: 1 } }] }));
  await report.refused("include what does not exist", () => collection.get({ include: ["pictures"] }));
  await report.refused("distances without a query", () => collection.get({ include: ["distances"] }));
  await report.refused("no results", () => collection.query({ queryEmbeddings: [[1, 2, 3]], nResults: -1 }));

  await report.step("nothing of it happened", async () => (await collection.get({ include: EVERYTHING })).rows());
  await client.deleteCollection({ name: "refusals" });
  await report.refused("count what was deleted", () => collection.count());
  await report.refused("add to what was deleted", () => collection.add({ ids: ["x"], embeddings: [[1, 2, 3]] }));
}
