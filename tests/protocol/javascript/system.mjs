// What belongs to no tenant: the server itself, whom it takes the client for, what a single node refuses, reset.

import { ChromaClient, K, Knn, Search } from "chromadb";

export async function system({ report, client, address }) {
  await report.step("heartbeat", async () => {
    const at = await client.heartbeat();
    return { type: typeof at, nanoseconds: at > 1e18 };
  });
  await report.step("version", () => client.version());
  await report.step("identity", () => client.getUserIdentity());
  await report.step("preflight checks", () => client.getPreflightChecks());
  await report.step("max batch size", () => client.getMaxBatchSize());
  await report.step("base64", () => client.supportsBase64Encoding());

  // Without tenant and database the client takes both from its identity.
  const nobody = new ChromaClient({ ...address, tenant: null, database: null });
  await report.step("places before the first request", () => [nobody.tenant ?? null, nobody.database ?? null]);
  await report.step("count without places", () => nobody.countCollections());
  await report.step("places after it", () => [nobody.tenant, nobody.database]);
  const anybody = new ChromaClient(address);
  await report.step("places by default", () => [anybody.tenant, anybody.database]);
  await report.step("heartbeat with headers", async () => {
    const dressed = new ChromaClient({ ...address, headers: { "x-something": "else" } });
    return (await dressed.heartbeat()) > 0;
  });
  await report.refused("a server that is not there", () => new ChromaClient({ ...address, port: 9 }).heartbeat());
}

export async function unimplemented({ report, client }) {
  const collection = await client.createCollection({ name: "single-node", embeddingFunction: null });
  await collection.add({ ids: ["a"], embeddings: [[1, 2]], documents: ["a text"] });
  await report.refused("fork", () => collection.fork({ name: "forked" }));
  await report.refused("fork count", () => collection.forkCount());
  await report.refused("indexing status", () => collection.getIndexingStatus());
  const search = new Search().where(K("kind").eq("x")).rank(Knn({ query: [1, 2] })).limit(3).select(K.DOCUMENT, K.SCORE);
  await report.refused("search", () => collection.search(search));
  await report.refused("several searches", () => collection.search([search, { limit: 2 }]));
  await report.refused("sparse vectors as metadata", () =>
    collection.add({ ids: ["b"], embeddings: [[1, 2]], metadatas: [{ sparse: { indices: [1, 5], values: [0.5, 2] } }] }),
  );
  await report.step("nothing of it happened", () => collection.get());
  await client.deleteCollection({ name: "single-node" });
}

export async function reset({ report, client, address }) {
  const elsewhere = new ChromaClient(address);
  await report.step("something is there", () =>
    elsewhere.getOrCreateCollection({ name: "here-today", embeddingFunction: null }).then(({ name }) => name),
  );
  // Allowed by one server of the comparison and refused by the other: the caller of the scenario knows which.
  await report.step("reset, or its refusal", () => client.reset().then(() => "reset", (error) => [error.name, error.message]));
  await report.step("is it still there", async () =>
    (await elsewhere.listCollections()).some(({ name }) => name === "here-today"),
  );
}
