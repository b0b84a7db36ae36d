/** How the search ranks: chapters before pages of modules, except for a function or class of the very name. */
var Scorer = {
  /** @param {[page: string, title: string, anchor: string, description: string, score: number]} result */
  score: ([page, , , , score]) => (page.startsWith("book/reference/") ? score / 10 : score),
  objNameMatch: 100, // between a word in a title and a word in the text
  objPartialMatch: 6,
  objPrio: { 0: -100, 1: 0, 2: -5 }, // 0: a module, which is named as its subject is
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
