// Compiles FOLDER/main.ts of every folder given, each as a program of its own: reading the library takes most of tsc's time,
// and here it is read once. Arguments: path of tsc, then the folders. Nothing is written where there is an error.
const fs = require("fs");
const path = require("path");
const [tsc, ...folders] = process.argv.slice(2);
const ts = require(path.join(path.dirname(fs.realpathSync(tsc)), "..", "lib", "typescript.js"));

const options = {
  target: ts.ScriptTarget.ES2020,
  module: ts.ModuleKind.CommonJS,
  lib: ["lib.es2020.d.ts", "lib.dom.d.ts"],
  types: [],
  skipLibCheck: true,
};
const host = ts.createCompilerHost(options);
const read = host.getSourceFile;
const library = new Map();
host.getSourceFile = (name, ...others) => {
  if (!name.endsWith(".d.ts")) return read(name, ...others);
  if (!library.has(name)) library.set(name, read(name, ...others));
  return library.get(name);
};
for (const folder of folders) {
  const program = ts.createProgram([path.join(folder, "main.ts")], options, host);
  if (ts.getPreEmitDiagnostics(program).length === 0) program.emit();
}
