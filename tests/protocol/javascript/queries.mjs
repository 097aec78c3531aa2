// Nearest records: by several vectors, in every space, with everything included, among some ids.

const VECTORS = [[1, 0, 0], [0.9, 0.1, 0.05], [0, 1, 0.5], [-1, 0.2, 0.3], [0.3, -0.6, 2]];

export async function queries({ report, client }) {
  const ids = VECTORS.map((_, i) => `v${i}`);
  for (const space of ["l2", "cosine", "ip"]) {
    const collection = await client.createCollection({
      name: `space-${space}`,
      embeddingFunction: null,
      configuration: { hnsw: { space } },
    });
    await report.step(`${space}: an empty collection`, () => collection.query({ queryEmbeddings: [[1, 2, 3]] }));
    await collection.add({
      ids,
      embeddings: VECTORS,
      documents: ids.map((id) => `document of ${id}`),
      metadatas: ids.map((_, i) => ({ i })),
      uris: ids.map((id) => `file:///${id}`),
    });
    await report.step(`${space}: the usual`, () => collection.query({ queryEmbeddings: [[1, 0.2, 0.1]] }));
    await report.step(`${space}: several at once`, () =>
      collection.query({ queryEmbeddings: [[1, 0.2, 0.1], [0.1, 1, 0.3], [-0.4, 0.1, 1]], nResults: 2 }),
    );
  }
  const collection = await client.getCollection({ name: "space-l2" });
  const one = { queryEmbeddings: [[0.5, 0.25, 0.125]], nResults: 3 };
  for (const include of [[], ["distances"], ["documents"], ["metadatas"], ["embeddings"], ["uris"]]) {
    await report.step(`include ${include.join(" ") || "nothing"}`, () => collection.query({ ...one, include }));
  }
  await report.step("everything, by rows", async () =>
    (await collection.query({ ...one, include: ["distances", "documents", "embeddings", "metadatas", "uris"] })).rows(),
  );
  await report.step("more results than there are", async () => (await collection.query({ ...one, nResults: 50 })).ids);
  await report.step("among some ids", async () => (await collection.query({ ...one, ids: ["v4", "v2"] })).ids);
  await report.step("among ids, with a filter", async () =>
    (await collection.query({ ...one, ids: ["v4", "v2", "v0"], where: { i: { $gt: 1 } } })).ids,
  );
  await report.step("a filter that nothing passes", () => collection.query({ ...one, where: { i: 99 } }));
  await report.step("a handle queries too", async () => (await client.collection(collection.id).query(one)).ids);
  await report.step("what is written is found at once", async () => {
    await collection.upsert({ ids: ["close"], embeddings: [[0.5, 0.25, 0.12]] });
    const found = (await collection.query(one)).ids;
    await collection.delete({ ids: ["close"] });
    return [found, (await collection.query(one)).ids];
  });
  for (const space of ["l2", "cosine", "ip"]) await client.deleteCollection({ name: `space-${space}` });
}
