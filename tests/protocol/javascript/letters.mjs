// An embedding function without a model: how often some letters occur in a text. Registered with the client as any
// third party's is, so that the server keeps its configuration and the client builds it again from there.

import { registerEmbeddingFunction } from "chromadb";

export class Letters {
  name = "letters";

  constructor({ letters }) {
    this.letters = letters;
  }

  async generate(texts) {
    return texts.map((text) => [...this.letters].map((letter) => text.split(letter).length - 1 + 0.25));
  }

  async generateForQueries(texts) {
    return (await this.generate(texts)).map((vector) => vector.map((value) => value + 0.125));
  }

  defaultSpace() {
    return "cosine";
  }

  supportedSpaces() {
    return ["cosine", "l2"];
  }

  getConfig() {
    return { letters: this.letters };
  }

  static buildFromConfig(config) {
    return new Letters(config);
  }
}

registerEmbeddingFunction("letters", Letters);
