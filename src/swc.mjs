// How this project's TypeScript becomes JavaScript: types are taken off and nothing is added, for
// what keeps the names of functions for debuggers runs at each closure that a request makes.
export const OPTIONS = {
  configFile: false,
  swcrc: false,
  module: { type: "es6" },
  jsc: {
    parser: { syntax: "typescript" },
    target: "es2022",
    transform: { verbatimModuleSyntax: true },
  },
};
