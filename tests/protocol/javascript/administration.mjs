// Tenants and databases, by AdminClient. Leaves the tenant and the database of the scenario behind.

import { AdminClient, ChromaClient } from "chromadb";

const DATABASE_NAMES = ["ab", "-ab", "a b", "a..b", "ümlaut", "10.0.0.1", "a/b", "x".repeat(513)];

export async function administration({ report, client, address, tenant, database }) {
  const admin = new AdminClient(address);
  await report.refused("a tenant that is not there", () => admin.getTenant({ name: tenant }));
  await report.refused("a collection of a tenant that is not there", () =>
    client.createCollection({ name: "nowhere", embeddingFunction: null }),
  );
  await report.step("create a tenant", () => admin.createTenant({ name: tenant }));
  await report.step("get it", async () => (await admin.getTenant({ name: tenant })) === tenant);
  await report.refused("create it again", () => admin.createTenant({ name: tenant }));
  await report.refused("a tenant's name too short", () => admin.createTenant({ name: "ab" }));
  await report.step("a new tenant has no database", () => admin.listDatabases({ tenant }));
  await report.refused("not the default one either", () => admin.getDatabase({ name: "default_database", tenant }));
  await report.refused("a collection of a database that is not there", () =>
    client.createCollection({ name: "nowhere", embeddingFunction: null }),
  );
  await report.refused("delete a database that is not there", () => admin.deleteDatabase({ name: database, tenant }));

  await report.step("create a database", () => admin.createDatabase({ name: database, tenant }));
  await report.step("get the database", () => admin.getDatabase({ name: database, tenant }));
  await report.refused("create the database again", () => admin.createDatabase({ name: database, tenant }));
  for (const name of DATABASE_NAMES) {
    await report.refused(`a database named ${name.slice(0, 12)}`, () => admin.createDatabase({ name, tenant }));
  }
  for (const name of ["avatar-zeta", "avatar-alpha", "avatar-3", "default_database"]) {
    await report.step(`create ${name}`, () => admin.createDatabase({ name, tenant }));
  }
  await report.step("all databases", () => admin.listDatabases({ tenant }));
  await report.step("a page of them", () => admin.listDatabases({ tenant, limit: 2, offset: 1 }));
  await report.step("a page behind the last", () => admin.listDatabases({ tenant, limit: 2, offset: 50 }));

  const other = new ChromaClient({ ...address, tenant, database: "avatar-zeta" });
  await report.step("a collection of another database", async () => {
    const collection = await other.createCollection({ name: "notes", embeddingFunction: null });
    await collection.add({ ids: ["a"], embeddings: [[1, 2, 3]] });
    return collection.count();
  });
  await report.refused("is not there in this one", () => client.getCollection({ name: "notes" }));
  await report.step("delete its database", () => admin.deleteDatabase({ name: "avatar-zeta", tenant }));
  await report.refused("which is gone", () => admin.getDatabase({ name: "avatar-zeta", tenant }));
  await report.refused("with its collection", () => other.getCollection({ name: "notes" }));
  await report.step("and can be created anew", () => admin.createDatabase({ name: "avatar-zeta", tenant }));
  await report.step("empty", () => other.countCollections());
}
