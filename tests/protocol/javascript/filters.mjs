// Filters by metadata and by document: every operator, alone and combined.

const WHERE = {
  "a text": { kind: "fruit" },
  "an int": { price: 3 },
  "a whole float for an int": { price: 3.0 },
  "a float": { weight: 0.5 },
  "a bool": { fresh: true },
  "a key that nobody has": { nothing: 1 },
  $eq: { kind: { $eq: "fruit" } },
  $ne: { kind: { $ne: "fruit" } },
  "$ne of a key that some lack": { weight: { $ne: 0.5 } },
  $gt: { price: { $gt: 3 } },
  $gte: { price: { $gte: 3 } },
  $lt: { price: { $lt: 3 } },
  $lte: { price: { $lte: 3 } },
  "$gt of a float": { price: { $gt: 2.5 } },
  $in: { kind: { $in: ["fruit", "nut"] } },
  "$in of ints": { price: { $in: [1, 4] } },
  $nin: { kind: { $nin: ["fruit", "nut"] } },
  "$contains in an array": { tags: { $contains: "red" } },
  "$not_contains in an array": { tags: { $not_contains: "red" } },
  "$contains of a number": { sizes: { $contains: 2 } },
  $and: { $and: [{ kind: "fruit" }, { price: { $gt: 1 } }] },
  $or: { $or: [{ kind: "nut" }, { price: { $lt: 2 } }] },
  nested: { $or: [{ $and: [{ kind: "fruit" }, { fresh: false }] }, { $and: [{ price: 4 }, { kind: { $ne: "fruit" } }] }] },
  unicode: { "größe": "süß" },
};

const WHERE_DOCUMENT = {
  $contains: { $contains: "apple" },
  "$contains, in another case": { $contains: "APPLE" },
  "$contains of unicode": { $contains: "süß" },
  "$contains of emoji": { $contains: "🍎" },
  "$contains of two letters": { $contains: "pp" },
  $not_contains: { $not_contains: "apple" },
  $regex: { $regex: "^a.*t$" },
  "$regex in any case": { $regex: "(?i)APPLE" },
  $not_regex: { $not_regex: "apple|nut" },
  $and: { $and: [{ $contains: "apple" }, { $not_contains: "pine" }] },
  $or: { $or: [{ $contains: "walnut" }, { $regex: "pine" }] },
};

const BAD_WHERE = {
  "two keys": { kind: "fruit", price: 1 },
  "no key": {},
  "an operator that does not exist": { price: { $near: 3 } },
  "a text compared": { kind: { $gt: "a" } },
  "an empty list": { kind: { $in: [] } },
  "a list of two types": { kind: { $in: ["a", 1] } },
  "one condition in $and": { $and: [{ kind: "fruit" }] },
};

// What the client lets pass, and the server refuses.
const BAD_WHERE_DOCUMENT = {
  "an operator that does not exist": { $starts: "a" },
  "two operators": { $contains: "a", $not_contains: "b" },
  "an expression that is none": { $regex: "(" },
  "$matches, which only the client knows": { $matches: "apple" },
  "a number": { $contains: 5 },
};

export async function filters({ report, client }) {
  const collection = await client.createCollection({ name: "filters", embeddingFunction: null });
  await report.step("records to choose from", () =>
    collection.add({
      ids: ["apple", "pineapple", "walnut", "bread", "beet", "none"],
      embeddings: [[1, 0], [0.9, 0.2], [0, 1], [-1, 0.3], [0.4, -0.7], [0.1, 0.1]],
      documents: ["an apple 🍎", "a pineapple, süß", "a walnut", "Bread with apple butter", "a beet", "Nothing"],
      metadatas: [
        { kind: "fruit", price: 1, weight: 0.25, fresh: true, tags: ["red", "round"], sizes: [1, 2] },
        { kind: "fruit", price: 4, weight: 1.5, fresh: false, tags: ["yellow"], "größe": "süß" },
        { kind: "nut", price: 3, weight: 0.5, tags: ["round"], sizes: [2] },
        { kind: "pastry", price: 4, fresh: true },
        { kind: "root", price: 2.75, tags: ["red"] },
        null,
      ],
    }),
  );
  for (const [name, where] of Object.entries(WHERE)) {
    await report.step(`where: ${name}`, async () => (await collection.get({ where })).ids);
    await report.step(`query where: ${name}`, async () => {
      const { ids, distances } = await collection.query({ queryEmbeddings: [[1, 0.1]], where });
      return { ids, distances };
    });
  }
  for (const [name, whereDocument] of Object.entries(WHERE_DOCUMENT)) {
    await report.step(`document: ${name}`, async () => (await collection.get({ whereDocument })).ids);
    await report.step(`query document: ${name}`, async () =>
      (await collection.query({ queryEmbeddings: [[1, 0.1]], whereDocument })).ids,
    );
  }
  await report.step("metadata and document", async () =>
    (await collection.get({ where: { price: { $lte: 4 } }, whereDocument: { $contains: "apple" } })).ids,
  );
  await report.step("a filter and a page", async () => (await collection.get({ where: { price: { $gt: 0 } }, limit: 2, offset: 1 })).ids);
  await report.step("a filter and ids", async () => (await collection.get({ ids: ["walnut", "bread"], where: { price: 4 } })).ids);
  for (const [name, where] of Object.entries(BAD_WHERE)) {
    await report.refused(`where: ${name}`, () => collection.get({ where }));
  }
  for (const [name, whereDocument] of Object.entries(BAD_WHERE_DOCUMENT)) {
    await report.refused(`document: ${name}`, () => collection.get({ whereDocument }));
  }
  // Not deleted: Chroma 1.5.9 leaves the arrays of a deleted collection to later records that get its row numbers.
}
