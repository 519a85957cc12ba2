// The page: asks the same API that programs ask. Whatever comes from the store is user data and is
// put in as text, never as markup.

import { confusion, range, scatter } from "./plot.js";

const KEY = "embedstore-api-key";
const MOST_PLOTS = 24;
const EXAMPLE = "AUGGCUAAAGGUGAAGAAUUAUUCACUGGUGUUGUCCCAAUUUUGGUUGAAUUAGAUGGUGAUGUUAAUGGUCACUAA";
const find = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");

class Problem extends Error {
  constructor(status, body, retryAfter) {
    super([body.problem, body.fix].filter(Boolean).join(" "));
    this.status = status;
    this.code = body.code;
    this.retryAfter = retryAfter;
  }
}

/** An element with a class and children; strings become text. */
function make(name, options = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(options)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

async function ask(path, body) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store",
    });
  } catch {
    throw new Problem(0, { problem: "The server does not answer.", fix: "Is it still running?" });
  }
  const answer = await response.json().catch(() => ({ problem: `Status ${response.status}.` }));
  if (response.ok) return answer;
  if (response.status === 401) askForKey(Boolean(key));
  throw new Problem(response.status, answer, Number(response.headers.get("Retry-After")));
}

/** Ask again while the server is still preparing something, as long as the answer is wanted. */
async function askPatiently(path, body, waiting) {
  for (;;) {
    try {
      return await ask(path, body);
    } catch (problem) {
      if (problem.code !== "not-ready" || !waiting(problem)) throw problem;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (problem.retryAfter || 5)));
      if (!waiting(problem)) throw problem;
    }
  }
}

function askForKey(refused) {
  find("key-form").hidden = false;
  find("api").hidden = true; // a link carries no key
  find("key-problem").textContent = refused ? "The server does not know this key." : "";
  find("summary").textContent = "Locked";
  find("key").focus();
}

const bytes = (number) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (number >= 1000 && at < units.length - 1) {
    number /= 1000;
    at += 1;
  }
  return `${at && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[at]}`;
};
const counted = (number, one, many) => `${count.format(number)} ${number === 1 ? one : many}`;
const rounded = (number) => (typeof number === "number" ? Number(number.toPrecision(4)) : number);
const score = (number) => (typeof number === "number" ? number.toFixed(3) : "undefined");

const VIEW_NAMES = { mrna: "mRNA", dna: "DNA", protein: "protein", cds: "coding sequence" };
const viewName = (view) => VIEW_NAMES[view] || view;

/** A table: columns are {name, number}; cells are strings or elements. */
function table(caption, columns, rows) {
  // roles: on a phone rows are shown as blocks, which a screen reader would not take for a table
  const number = (column) => column.number && { class: "number" };
  const head = make("tr", { role: "row" }, ...columns.map((column) =>
    make("th", { scope: "col", role: "columnheader", ...number(column) }, column.name)));
  const body = rows.map((cells) => make("tr", { role: "row" }, ...cells.map((cell, at) =>
    at === 0
      ? make("th", { scope: "row", role: "rowheader" }, ...[cell].flat())
      : make("td", { role: "cell", "data-label": columns[at].name, ...number(columns[at]) },
        make("span", {}, ...[cell].flat())))));
  return make("table", { class: "stacked", role: "table" }, make("caption", {}, caption),
    make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, ...body));
}

function meter(share) {
  const filled = make("span");
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return make("span", { class: "meter", "aria-hidden": "true" }, filled);
}

const note = (text) => make("p", { class: "note" }, text);
const problemNote = (text) => make("p", { class: "problem" }, text);

// --- the store ---------------------------------------------------------------------------------

async function showStore() {
  const [info, { coverage }] = await Promise.all([ask("info"), ask("v1/coverage")]);
  const records = info.collections.reduce((sum, each) => sum + each.records, 0);
  const size = info.recipes.reduce((sum, each) => sum + each.bytes, 0);
  find("summary").textContent = [
    counted(records, "record", "records"),
    counted(info.collections.length, "collection", "collections"),
    counted(info.recipes.length, "recipe", "recipes"),
    bytes(size),
  ].join(" · ");
  find("versions").textContent = Object.entries(info.versions)
    .map(([name, version]) => `${name} ${version}`).join(" · ");

  const names = info.collections.map((each) => each.name);
  const columns = [
    { name: "Backbone" }, { name: "Reads" }, { name: "Width", number: true },
    { name: "Embeddings", number: true }, { name: "Tokens", number: true },
    { name: "Size", number: true }, ...names.map((name) => ({ name: `In ${name}` })),
  ];
  const rows = info.recipes.map((recipe) => [
    [recipe.backbone, make("small", {}, recipe.recipe)],
    viewName(recipe.view), count.format(recipe.width), count.format(recipe.keys),
    count.format(recipe.tokens), bytes(recipe.bytes),
    ...names.map((name) => covered(
      coverage.find((row) => row.collection === name && row.recipe === recipe.recipe))),
  ]);
  const caption = "Embedded records of each collection, of those that the backbone can read";
  find("coverage").replaceChildren(
    rows.length ? table(caption, columns, rows) : note("Nothing is embedded yet: run embedstore build."),
    ...info.damaged.map((each) => problemNote(`${each.name}: ${each.problem}`)));

  const backbones = find("backbone");
  const chosen = backbones.value;
  backbones.replaceChildren(...info.recipes.map((recipe) =>
    make("option", { value: recipe.recipe }, label(recipe, info.recipes))));
  // a learned backbone says more of nearness than a composition does
  const learned = info.recipes.find((each) => !/^one-hot|composition/.test(each.backbone));
  backbones.value = chosen || (learned || info.recipes[0] || {}).recipe || "";
}

const label = (recipe, all) =>
  all.filter((each) => each.backbone === recipe.backbone).length > 1 ? recipe.recipe : recipe.backbone;

function covered(row) {
  if (!row) return "–";
  if (row.problem) return make("span", { class: "problem" }, row.problem);
  const share = row.with_view ? row.embedded / row.with_view : 0;
  const left = row.records - row.with_view;
  return [
    `${count.format(row.embedded)} of ${count.format(row.with_view)}`,
    meter(share),
    ...(left ? [make("small", {}, `${count.format(left)} without this view`)] : []),
  ];
}

// --- the probes --------------------------------------------------------------------------------

let probes = [];

async function showProbes() {
  const found = await ask("v1/probes");
  probes = found.probes;
  if (!probes.length && !found.damaged.length) {
    find("probe-table").replaceChildren(note("This server was started without probes."));
    return;
  }
  const tested = new Map();
  for (const probe of probes) {
    try {
      tested.set(probe.name, await ask(`v1/probes/${encodeURIComponent(probe.name)}/predictions`));
    } catch (problem) {
      tested.set(probe.name, { problem: problem.message, points: [] });
    }
  }
  const shown = [...tested.values()].filter((each) => typeof each.score === "number");
  const ends = shown.flatMap((each) => [each.score, ...(each.interval || [])]);
  const low = Math.floor(Math.min(0, ...ends));
  const high = Math.ceil(Math.max(1, ...ends));
  const columns = [
    { name: "Probe" }, { name: "Predicts" }, { name: "Reads" }, { name: "Metric" },
    { name: "Test score" }, { name: `On a scale of ${low} to ${high}` },
    { name: "Rows", number: true },
  ];
  const rows = probes.map((probe) => {
    const own = tested.get(probe.name);
    const predicts = [probe.unit, make("small", {}, `${probe.kind} of ${probe.collection}`)];
    const reads = [probe.backbone, make("small", {}, `${viewName(probe.view)}, ${probe.head}`)];
    if (own.problem) return [probe.name, predicts, reads, "–", make("span", { class: "problem" }, own.problem), "–", "–"];
    const test = (probe.metrics.test || {}).n;
    return [
      probe.name, predicts, reads, own.metric, told(own),
      typeof own.score === "number" ? range(own.score, own.interval, low, high, told(own)) : "–",
      count.format(own.rows || test || 0),
    ];
  });
  const level = [...tested.values()].map((each) => each.level).find(Boolean);
  const caption = level
    ? `In parentheses: ${Math.round(100 * (1 - level))} % bootstrap intervals`
    : "These probes are not in a run with intervals";
  find("probe-table").replaceChildren(
    table(caption, columns, rows),
    ...found.damaged.map((each) => problemNote(`${each.name}: ${each.problem}`)));
  showPlots(tested);
}

const told = (own) => score(own.score)
  + (own.interval ? ` (${score(own.interval[0])} to ${score(own.interval[1])})` : "");

function showPlots(tested) {
  const drawn = probes.filter((probe) => tested.get(probe.name).points.length);
  find("plots-title").hidden = !drawn.length;
  find("plots").replaceChildren(...drawn.slice(0, MOST_PLOTS).map((probe) => {
    const own = tested.get(probe.name);
    const points = own.points;
    const all = points.length < own.rows
      ? `${count.format(points.length)} of ${count.format(own.rows)} rows` : counted(own.rows, "row", "rows");
    const said = `${probe.name}: predicted against true ${own.unit}, ${all}, ${own.metric} ${told(own)}`;
    const plot = own.kind === "regression"
      ? scatter(points, own.unit, said) : confusion(points, probe.classes, said);
    return make("figure", {},
      make("figcaption", {}, probe.name, make("small", {}, `${own.metric} ${told(own)}, ${all}`)), plot);
  }), ...(drawn.length > MOST_PLOTS ? [note(`${drawn.length - MOST_PLOTS} more are not drawn.`)] : []));
}

// --- one sequence ------------------------------------------------------------------------------

let asked = 0; // answers to an older question are dropped

async function look() {
  const number = (asked += 1);
  const current = () => number === asked;
  const sequence = find("sequence").value;
  const molecule = find("molecule").value || null;
  find("look").disabled = true;
  find("status").textContent = "Reading the sequence …";
  find("answer").setAttribute("aria-busy", "true");
  try {
    const found = await ask("v1/views", { sequence, molecule });
    if (!current()) return;
    find("answer").hidden = false;
    find("views").replaceChildren(...found.views.map(showView));
    find("status").textContent = `Read as ${viewName(found.molecule)}, ${counted(found.letters, "letter", "letters")}.`;
    find("predictions").replaceChildren(note(probes.length ? "Predicting …" : "This server has no probes."));
    find("neighbors").replaceChildren(note("Searching …"));
    await Promise.all([showPredictions(sequence, molecule, current), showNeighbors(sequence, molecule, current)]);
  } catch (problem) {
    if (!current()) return;
    find("answer").hidden = true;
    find("status").replaceChildren(make("span", { class: "problem" }, problem.message));
  } finally {
    if (current()) {
      find("look").disabled = false;
      find("answer").removeAttribute("aria-busy");
    }
  }
}

function showView(view) {
  const name = viewName(view.view);
  const unit = view.view === "protein" ? ["residue", "residues"] : ["nt", "nt"];
  const head = make("div", {}, make("b", {}, name));
  if (view.error) {
    return make("div", { class: "view" }, head, problemNote(view.error.problem));
  }
  head.append(make("small", {}, counted(view.text.length, ...unit)));
  return make("div", { class: "view" }, head,
    make("pre", { tabindex: "0", role: "region", "aria-label": `The ${name}` }, view.text));
}

/** A number, a class, or one number for each position. */
function valued(prediction) {
  if (!Array.isArray(prediction)) return String(rounded(prediction));
  const numbers = prediction.flat(2).filter((each) => typeof each === "number");
  const mean = numbers.reduce((sum, each) => sum + each, 0) / numbers.length;
  return `${counted(prediction.length, "position", "positions")}, mean ${rounded(mean)}`;
}

async function showPredictions(sequence, molecule, current) {
  if (!probes.length) return;
  const rows = await Promise.all(probes.map(async (probe) => {
    const name = [probe.name, make("small", {}, `${probe.backbone} reads ${viewName(probe.view)}`)];
    const wrong = (text) => [name, make("span", { class: "problem" }, text), "–"];
    try {
      const answer = await ask(`v1/probes/${encodeURIComponent(probe.name)}/predict`,
        { sequences: [{ sequence, molecule }] });
      const [found] = answer.predictions;
      if (found.error) return wrong(found.error.problem);
      const shares = found.probabilities
        ? [make("small", {}, Object.entries(found.probabilities)
          .map(([name, share]) => `${name} ${Math.round(100 * share)} %`).join(", "))] : [];
      return [name, [make("b", {}, valued(found.prediction)), ` ${answer.unit}`, ...shares],
        found.embedding];
    } catch (problem) {
      return wrong(problem.message);
    }
  }));
  if (!current()) return;
  find("predictions").replaceChildren(table("One row a probe",
    [{ name: "Probe" }, { name: "Prediction" }, { name: "Embedding" }], rows));
}

async function showNeighbors(sequence, molecule, current) {
  const backbone = find("backbone").value;
  const metric = find("metric").value;
  if (!backbone) {
    find("neighbors").replaceChildren(note("The store has no embedding to compare with."));
    return;
  }
  const still = () => current() && backbone === find("backbone").value && metric === find("metric").value;
  try {
    const found = await askPatiently("v1/neighbors", { backbone, sequence, molecule, metric, k: 8 },
      (problem) => {
        if (still()) find("neighbors").replaceChildren(note(problem.message));
        return still();
      });
    if (!still()) return;
    const measure = metric === "cosine" ? "Similarity" : "Distance";
    const rows = found.neighbors.map((each) => [
      owners(each), metric === "cosine"
        ? [each.score.toFixed(4), meter(each.score)] : String(rounded(each.distance)),
    ]);
    find("neighbors").replaceChildren(
      rows.length ? table(`By ${found.recipe}`, [{ name: "Record" }, { name: measure, number: true }], rows)
        : note("None was found."),
      note(described(found.index)),
      ...found.index.excluded.map((each) => problemNote(`Left out: ${each.problem}.`)));
  } catch (problem) {
    if (still()) find("neighbors").replaceChildren(problemNote(problem.message));
  }
}

function owners(neighbor) {
  if (!neighbor.records.length) return [make("span", {}, neighbor.key), make("small", {}, "in no collection")];
  const [first] = neighbor.records;
  const more = neighbor.record_count - 1;
  return [first.id, make("small", {}, first.collection
    + (more ? `, and ${counted(more, "other record", "other records")} with the same view` : ""))];
}

const described = (index) =>
  `${index.kind === "exact" ? "Exact search" : `Approximate search (IVF), recall@10 ${index.recall.toFixed(3)},`} `
  + `over ${counted(index.vectors, "embedding", "embeddings")}.`
  + (index.stale ? " The store has changed since; the index is being made anew." : "");

// --- start -------------------------------------------------------------------------------------

async function start() {
  const parts = [[showStore, "coverage"], [showProbes, "probe-table"]];
  await Promise.all(parts.map(async ([show, place]) => {
    try {
      await show();
    } catch (problem) {
      find(place).replaceChildren(problemNote(problem.message));
      if (problem.status !== 401 && place === "coverage") find("summary").textContent = "";
    }
  }));
  document.body.dataset.ready = "true";
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key").value.trim());
  find("key").value = "";
  find("key-form").hidden = true;
  start();
});
find("sequence-form").addEventListener("submit", (event) => {
  event.preventDefault();
  look();
});
find("example").addEventListener("click", () => {
  find("sequence").value = EXAMPLE;
  find("molecule").value = "mrna";
  look();
});
for (const id of ["backbone", "metric"]) {
  find(id).addEventListener("change", () => {
    if (!find("answer").hidden) look();
  });
}
start();
