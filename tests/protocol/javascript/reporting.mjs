// One JSON line a step: what the client answered, or what it threw, with everything replaced that differs between
// two runs or two servers for no reason of theirs: addresses, ids in the order of their appearance, tenant, database.

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

const ATTEMPTS = 20;
const PAUSE_MS = 200;

export class Reporter {
  constructor({ url, tenant, database, patient }) {
    this.url = url;
    this.tenant = tenant;
    this.database = database;
    this.patient = patient;
    this.names = new Map();
    this.chapter = "";
  }

  /** Runs a step that must succeed, prints what it returned, and returns it. */
  async step(name, act) {
    return this.#run(name, act, false);
  }

  /** Runs a step that must be refused, and prints the exception. */
  async refused(name, act) {
    await this.#run(name, act, true);
  }

  async #run(step, act, refusal) {
    const line = { chapter: this.chapter, step, refusal };
    let result;
    try {
      result = await this.#answered(act);
      line.answer = result === undefined ? "undefined" : result;
    } catch (error) {
      // An address in a message names a collection by its id; numbered, one message more would shift all later ones.
      line.error = { type: error.constructor.name, name: error.name, message: error.message.replaceAll(UUID, "<id>") };
    }
    console.log(this.#neutral(line));
    return result;
  }

  /** The outcome of a step, asked for again while the reference's database refuses it because it is busy. */
  async #answered(act) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await act();
      } catch (error) {
        if (!this.patient || attempt === ATTEMPTS || !error.message.includes("database is locked")) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  }

  #neutral(line) {
    const place = { tenant: "<tenant>", database: "<database>" };
    const text = JSON.stringify(line, (key, value) => (value === this[key] && key in place ? place[key] : value));
    return text
      .replaceAll(this.url, "<server>")
      .replaceAll(`tenants/${this.tenant}/databases/${this.database}`, "tenants/<tenant>/databases/<database>")
      .replaceAll(UUID, (id) => {
        if (!this.names.has(id)) this.names.set(id, `<id ${this.names.size + 1}>`);
        return this.names.get(id);
      });
  }
}

/** A collection as its client object shows it. */
export const portrait = (collection) => ({
  id: collection.id,
  name: collection.name,
  tenant: collection.tenant,
  database: collection.database,
  metadata: collection.metadata,
  configuration: collection.configuration,
  schema: collection.schema?.serializeToJSON(),
  embeddingFunction: collection.embeddingFunction?.name,
});
