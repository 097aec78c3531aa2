// Collections: made, found, listed, changed, deleted; their configuration, schema and embedding functions.

import { Letters } from "./letters.mjs";
import { portrait } from "./reporting.mjs";

const BAD_NAMES = ["ab", "-abc", "abc-", "a b c", "a..b", "größe", "192.168.1.1", "x".repeat(513)];

export async function collections(scene) {
  await made(scene);
  await configured(scene);
  await changed(scene);
  await embedded(scene);
  await listed(scene);
}

async function made({ report, client }) {
  await report.step("none yet", async () => [await client.countCollections(), await client.listCollections()]);
  await report.step("create", async () =>
    portrait(await client.createCollection({ name: "plain", embeddingFunction: null })),
  );
  await report.step("create with metadata of each type", async () =>
    portrait(
      await client.createCollection({
        name: "described",
        embeddingFunction: null,
        metadata: {
          text: "ein schönes Buch – 本 📚",
          empty: "",
          int: 7,
          negative: -3,
          float: 0.1,
          whole: 2.0,
          yes: true,
          no: false,
          nothing: null,
        },
      }),
    ),
  );
  await report.refused("create it again", () => client.createCollection({ name: "plain", embeddingFunction: null }));
  await report.step("get or create what is there", async () =>
    portrait(await client.getOrCreateCollection({ name: "described", embeddingFunction: null })),
  );
  await report.step("get or create keeps the metadata of what is there", async () => {
    await client.getOrCreateCollection({ name: "described", embeddingFunction: null, metadata: { other: 1 } });
    return (await client.getCollection({ name: "described" })).metadata;
  });
  await report.step("get or create what is not there", async () =>
    portrait(await client.getOrCreateCollection({ name: "new-one", embeddingFunction: null, metadata: { is: "new" } })),
  );
  await report.step("get by name", async () => portrait(await client.getCollection({ name: "described" })));
  await report.refused("get what is not there", () => client.getCollection({ name: "never-made" }));
  await report.refused("delete what is not there", () => client.deleteCollection({ name: "never-made" }));
  for (const name of BAD_NAMES) {
    await report.refused(`a collection named ${name.slice(0, 12)}`, () => client.createCollection({ name, embeddingFunction: null }));
  }
  await report.refused("empty metadata", () =>
    client.createCollection({ name: "empty-metadata", embeddingFunction: null, metadata: {} }),
  );
}

async function configured({ report, client }) {
  const hnsw = {
    space: "cosine",
    ef_construction: 64,
    ef_search: 32,
    max_neighbors: 8,
    resize_factor: 1.5,
    sync_threshold: 500,
    batch_size: 50,
    num_threads: 1,
  };
  await report.step("every option of the index", async () =>
    portrait(await client.createCollection({ name: "tuned", embeddingFunction: null, configuration: { hnsw } })),
  );
  await report.step("get it with its options", async () => portrait(await client.getCollection({ name: "tuned" })));
  await report.step("the space in metadata, as older clients say it", async () =>
    portrait(
      await client.createCollection({ name: "older", embeddingFunction: null, metadata: { "hnsw:space": "ip" } }),
    ),
  );
  await report.step("an index of another kind", async () =>
    portrait(
      await client.createCollection({
        name: "other-index",
        embeddingFunction: null,
        configuration: { spann: { space: "l2", search_nprobe: 10 } },
      }),
    ),
  );
  await report.refused("two kinds at once", () =>
    client.createCollection({ name: "both", embeddingFunction: null, configuration: { hnsw, spann: {} } }),
  );
  await report.refused("a space that does not exist", () =>
    client.createCollection({ name: "flat", embeddingFunction: null, configuration: { hnsw: { space: "taxicab" } } }),
  );
  await report.refused("an option of the wrong type", () =>
    client.createCollection({ name: "odd", embeddingFunction: null, configuration: { hnsw: { ef_search: "many" } } }),
  );
}

async function changed({ report, client }) {
  const collection = await client.getCollection({ name: "tuned" });
  const again = async (name) => portrait(await client.getCollection({ name }));
  await report.step("rename", () => collection.modify({ name: "renamed" }));
  await report.step("the new name", () => again("renamed"));
  await report.refused("the old name", () => again("tuned"));
  await report.step("metadata", () => collection.modify({ metadata: { first: 1, second: "two" } }));
  await report.step("is set", () => again("renamed"));
  await report.step("other metadata", () => collection.modify({ metadata: { third: 3.5 } }));
  await report.step("replaces it", () => again("renamed"));
  await report.step("options", () =>
    collection.modify({ configuration: { hnsw: { ef_search: 77, sync_threshold: 900, resize_factor: 1.25 } } }),
  );
  await report.step("are changed", () => again("renamed"));
  await report.step("name and metadata at once", () => collection.modify({ name: "tuned", metadata: { all: true } }));
  await report.step("are changed too", () => again("tuned"));
  await report.refused("a bad name", () => collection.modify({ name: "a" }));
  await report.step("nothing", () => collection.modify({}));
  await report.refused("empty new metadata", () => collection.modify({ metadata: {} }));
  await report.refused("a handle does not modify", () => client.collection(collection.id).modify({ name: "other" }));
  await report.step("it is as it was", () => again("tuned"));
}

async function embedded({ report, client }) {
  const letters = new Letters({ letters: "aeiou" });
  await report.step("an embedding function", async () =>
    portrait(await client.createCollection({ name: "letters", embeddingFunction: letters })),
  );
  await report.step("is built again from what the server keeps", async () =>
    portrait(await client.getCollection({ name: "letters" })),
  );
  await report.step("and embeds", async () => {
    const collection = await client.getCollection({ name: "letters" });
    await collection.add({ ids: ["1", "2", "3"], documents: ["banana", "queue", "iris"] });
    const { ids, distances } = await collection.query({ queryTexts: ["panama", "miss"], nResults: 2 });
    return { ids, distances, rows: (await collection.get({ include: ["embeddings", "documents"] })).rows() };
  });
  // No package for it is installed: the server must keep the name all the same.
  await report.step("the client's default embedding function", async () =>
    portrait(await client.createCollection({ name: "by-default" })),
  );
  await report.step("comes back by name", async () => portrait(await client.getCollection({ name: "by-default" })));
  await report.refused("and cannot embed here", async () =>
    (await client.getCollection({ name: "by-default" })).add({ ids: ["1"], documents: ["text"] }),
  );
  await report.step("change the embedding function", async () => {
    const collection = await client.getCollection({ name: "letters" });
    await collection.modify({ configuration: { embeddingFunction: new Letters({ letters: "xyzab" }) } });
    return portrait(await client.getCollection({ name: "letters" }));
  });
}

async function listed({ report, client }) {
  const names = async (page) => (await client.listCollections(page)).map(({ name }) => name);
  await report.step("count", () => client.countCollections());
  // The order of a list is the server's own affair; its pages must add up to the whole.
  await report.step("list", async () =>
    (await client.listCollections()).map(portrait).sort((a, b) => (a.name < b.name ? -1 : 1)),
  );
  await report.step("pages", async () => {
    const pages = [await names({ limit: 3 }), await names({ limit: 3, offset: 3 }), await names({ limit: 3, offset: 6 })];
    return { sizes: pages.map((page) => page.length), all: pages.flat().sort() };
  });
  await report.step("a page behind the last", () => names({ limit: 3, offset: 60 }));
  for (const name of await names()) await client.deleteCollection({ name });
  await report.step("all deleted", async () => [await client.countCollections(), await names()]);
}
