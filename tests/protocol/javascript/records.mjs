// Records: added, merged, changed, read back, deleted; texts and metadata of every kind.

export const EVERYTHING = ["documents", "embeddings", "metadatas", "uris"];

export async function records(scene) {
  const collection = await scene.client.createCollection({ name: "records", embeddingFunction: null });
  await added(scene, collection);
  await typed(scene);
  await merged(scene, collection);
  await read(scene, collection);
  await deleted(scene, collection);
  await many(scene);
  await scene.client.deleteCollection({ name: "records" });
}

async function added({ report, client }, collection) {
  const rows = async () => (await collection.get({ include: EVERYTHING })).rows();
  await report.step("an empty collection", async () => [await collection.count(), await collection.get(), await collection.peek({})]);
  await report.step("add", () =>
    collection.add({
      ids: ["c", "a", "b"],
      embeddings: [[1, 0.1, -2], [1e-7, 3.4028234e38, 0], [0.3333333333333333, 1e10, -0]],
      documents: ["third letter", "first letter", ""],
      metadatas: [{ page: 3 }, { page: 1, kind: "vowel" }, { page: 2 }],
      uris: ["file:///c", "file:///a", "https://example.com/ü?x=1&y=2"],
    }),
  );
  await report.step("what was added", rows);
  await report.step("add existing ids and a new one", () =>
    collection.add({ ids: ["a", "d"], embeddings: [[9, 9, 9], [4, 4, 4]], documents: ["not taken", "taken"] }),
  );
  await report.step("existing ones are as they were", rows);
  await report.step("embeddings alone", () => collection.add({ ids: ["bare"], embeddings: [[5, 5, 5]] }));
  await report.step("count at each read level", () =>
    Promise.all(["index_and_wal", "index_only", "index_and_bounded_wal"].map((readLevel) => collection.count({ readLevel }))),
  );
  await report.step("a handle reads and writes by id", async () => {
    const handle = client.collection(collection.id);
    await handle.upsert({ ids: ["by-handle"], embeddings: [[6, 6, 6]], metadatas: [{ by: "handle" }] });
    return [await handle.count(), await handle.get({ ids: ["by-handle"], include: EVERYTHING })];
  });
  await report.step("ids of any characters", async () => {
    const ids = ["ünï-çødé", "日本語", "🦜🔗", "with space", "a/b?c=d&e#f", "'\"\\", "\u0001", "x".repeat(500)];
    await collection.add({ ids, embeddings: ids.map((_, i) => [i, 1, 1]), documents: ids });
    const found = await collection.get({ ids });
    await collection.delete({ ids });
    return found;
  });
}

async function typed({ report, client }) {
  const collection = await client.createCollection({ name: "typed", embeddingFunction: null });
  const metadatas = [
    { text: "a", empty: "", unicode: "ä 本 📚", long: "lang ".repeat(200) },
    { int: 1, zero: 0, negative: -5, large: 2 ** 53 - 1, smallest: -(2 ** 53) + 1 },
    { float: 0.5, tiny: 1e-300, huge: 1e300, third: 1 / 3, whole: 3.0 },
    { yes: true, no: false },
    { texts: ["x", "ö", ""], ints: [1, 2, 3], floats: [0.5, 0.25], bools: [true, false, true] },
    { kept: "yes", dropped: null },
    { only: null },
    null,
    { "a key": 1, "ключ": 2, "a.b": 3, "UPPER": 4 },
  ];
  const ids = metadatas.map((_, i) => `m${i}`);
  await report.step("metadata of each type", () =>
    collection.add({ ids, embeddings: ids.map((_, i) => [i, 1]), metadatas }),
  );
  await report.step("comes back", async () => (await collection.get({ include: ["metadatas"] })).rows());
  const texts = ["", " ", "line\nbreak\ttab", "quote \" back \\ slash", "🦜🔗 e\u0301 é", "ا ب ت", "\u0001control", "long ".repeat(5000)];
  await report.step("documents of each kind", async () => {
    for (const [i, text] of texts.entries()) {
      await collection.upsert({ ids: [`t${i}`], embeddings: [[i, 2]], documents: [text] });
    }
    return (await collection.get({ ids: texts.map((_, i) => `t${i}`) })).documents.map((text, i) => [text === texts[i], text.length]);
  });
  await report.step("the schema has learned the keys", async () => {
    const { schema } = await client.getCollection({ name: "typed" });
    return Object.fromEntries(Object.entries(schema.serializeToJSON().keys).sort());
  });
  await report.step("a key that changes its type", async () => {
    await collection.update({ ids: ["m1"], metadatas: [{ int: "now a text", zero: true, negative: [1, 2] }] });
    return (await collection.get({ ids: ["m1"] })).metadatas;
  });
  // Not deleted: Chroma 1.5.9 leaves the arrays of a deleted collection to later records that get its row numbers.
}

async function merged({ report }, collection) {
  const rows = async (...ids) => (await collection.get({ ids, include: EVERYTHING })).rows();
  await report.step("upsert one there and one new", () =>
    collection.upsert({
      ids: ["a", "e"],
      embeddings: [[7, 8, 9], [5, 6, 7]],
      documents: ["changed", "new"],
      metadatas: [{ kind: "changed", extra: true }, { page: 5 }],
    }),
  );
  await report.step("metadata is merged", () => rows("a", "e"));
  await report.step("upsert embeddings alone", () => collection.upsert({ ids: ["a"], embeddings: [[1, 1, 1]] }));
  await report.step("keeps the rest", () => rows("a"));
  await report.step("update a document with its embedding", () =>
    collection.update({ ids: ["c"], documents: ["a text anew"], embeddings: [[2, 2, 2]] }),
  );
  await report.step("update metadata alone", () => collection.update({ ids: ["c", "d"], metadatas: [{ page: 33 }, { page: 4 }] }));
  await report.step("update a uri alone", () => collection.update({ ids: ["c"], uris: ["file:///elsewhere"] }));
  await report.step("each changed what it named", () => rows("c", "d"));
  await report.step("update what is not there", () => collection.update({ ids: ["nobody"], metadatas: [{ page: 0 }] }));
  await report.step("makes nothing", () => rows("nobody"));
}

async function read({ report }, collection) {
  await report.step("in the order of insertion, not of the request", async () =>
    (await collection.get({ ids: ["e", "c", "nobody", "a"] })).ids,
  );
  await report.step("one id twice is the client's affair", async () => (await collection.get({ ids: ["a"] })).ids);
  for (const include of [[], ["documents"], ["metadatas"], ["embeddings"], ["uris"], EVERYTHING]) {
    await report.step(`include ${include.join(" ") || "nothing"}`, () => collection.get({ ids: ["a", "c"], include }));
  }
  await report.step("pages", () =>
    Promise.all([[2, 0], [2, 2], [2, 4], [2, 6], [100, 5], [3, 100]].map(async ([limit, offset]) =>
      (await collection.get({ limit, offset })).ids,
    )),
  );
  await report.step("an offset alone", async () => (await collection.get({ offset: 3 })).ids);
  await report.step("a limit of zero", async () => (await collection.get({ limit: 0 })).ids);
  await report.step("ids and a page", async () => (await collection.get({ ids: ["a", "b", "c"], limit: 1, offset: 1 })).ids);
  await report.step("peek", async () => (await collection.peek({ limit: 2 })).rows());
  await report.step("peek at the usual number", async () => (await collection.peek({})).ids);
}

async function deleted({ report }, collection) {
  const ids = async () => (await collection.get()).ids;
  await report.step("delete by id", () => collection.delete({ ids: ["b"] }));
  await report.step("without it", ids);
  await report.step("delete ids that are not there", () => collection.delete({ ids: ["b", "nobody"] }));
  await report.step("delete by metadata", () => collection.delete({ where: { page: { $gte: 30 } } }));
  await report.step("without those", ids);
  await report.step("delete by document", () => collection.delete({ whereDocument: { $contains: "new" } }));
  await report.step("without these", ids);
  await report.step("delete by id and metadata", () => collection.delete({ ids: ["a", "d"], where: { page: 4 } }));
  await report.step("without what both name", ids);
  await report.step("delete what no record is", () => collection.delete({ where: { page: 12345 } }));
  await report.step("deleted ids can be added again", async () => {
    await collection.add({ ids: ["b"], embeddings: [[0, 0, 1]] });
    return (await collection.get({ ids: ["b"], include: EVERYTHING })).rows();
  });
  await report.step("a limited delete", async () => {
    const more = [...Array(10).keys()].map((i) => `n${i}`);
    await collection.add({ ids: more, embeddings: more.map((_, i) => [i, 1, 0]), metadatas: more.map(() => ({ heap: 1 })) });
    const answer = await collection.delete({ where: { heap: 1 }, limit: 4 });
    return [answer, (await collection.get({ where: { heap: 1 } })).ids.length];
  });
  await report.step("delete nothing in particular", () => collection.delete({}));
  await report.refused("no ids", () => collection.delete({ ids: [] }));
  await report.refused("a limit without a filter", () => collection.delete({ ids: ["a"], limit: 1 }));
}

async function many({ report, client }) {
  const collection = await client.createCollection({ name: "many", embeddingFunction: null });
  const batch = (from, size) => {
    const numbers = [...Array(size).keys()].map((i) => from + i);
    return {
      ids: numbers.map((i) => `r${i}`),
      embeddings: numbers.map((i) => [Math.sin(i), Math.cos(i), Math.sin(i * 3), i / 1000]),
      documents: numbers.map((i) => `record ${i}`),
      metadatas: numbers.map((i) => ({ i, even: i % 2 === 0 })),
    };
  };
  await report.step("more records than the index waits for", async () => {
    for (const from of [0, 400, 800]) await collection.add(batch(from, 400));
    return collection.count();
  });
  await report.step("nearest of many", async () => {
    const { ids, distances } = await collection.query({ queryEmbeddings: [[0.5, 0.5, 0.5, 0.5]], nResults: 5 });
    return { ids, distances };
  });
  await report.step("the last page of many", async () => (await collection.get({ limit: 5, offset: 1195 })).rows());
  await report.step("writes at once", async () => {
    await Promise.all([...Array(8).keys()].map((i) => collection.upsert(batch(2000 + i * 5, 5))));
    return [await collection.count(), (await collection.get({ where: { i: { $gte: 2000 } } })).ids.sort()];
  });
  await report.refused("more at once than is allowed", () => collection.add(batch(10_000, 5462)));
  await client.deleteCollection({ name: "many" });
}
