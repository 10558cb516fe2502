// Puts the data of the page into its charts, and lets the reader choose what they show. No request leaves the page.
const data = JSON.parse(await unpacked("data"));
new Function(await unpacked("library"))();
const LOG = { type: "log" };
// How much of a marker is filled, as in the figures.
const FILLING = { "steady": 1, "cannot tell": 0.35, "overloaded": 0 };
const RINGED = new Set(["surely", "possibly"]);
const all = [];

async function unpacked(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Controls -------------------------------------------------------------------------------------------------------

function choice(label, options, value, change) {
  const select = element("select", { onchange: () => change(select.value), "data-control": label });
  for (const [key, text] of options) select.append(element("option", { value: key, selected: String(key) === String(value) }, text));
  return element("label", {}, label, select);
}

function slider(label, labels, value, change) {
  const shown = element("output", {}, `${label}: ${labels[value]}`);
  const move = () => { shown.textContent = `${label}: ${labels[range.value]}`; change(Number(range.value)); };
  const range = element("input", { type: "range", min: 0, max: labels.length - 1, value, oninput: move, "data-control": label, "aria-label": label });
  return element("label", {}, shown, range);
}

function check(label, value, change) {
  const box = element("input", { type: "checkbox", checked: value, onchange: () => change(box.checked), "data-control": label });
  return element("label", { class: "check" }, box, label);
}

// Charts ---------------------------------------------------------------------------------------------------------

class Chart {
  // `make` returns {rows, titles: {x, y}, logs: {x, y}, domain, ordinal, picked} from what the reader has chosen.
  constructor(place, name, make, { title = "", caption = "", onPick = null, aria = "" } = {}) {
    Object.assign(this, { name, make, onPick, view: null, queue: Promise.resolve() });
    this.controls = element("div", { class: "controls" });
    this.plot = element("div", { class: "plot", role: "img", "aria-label": aria || title });
    this.note = element("p", { class: "small" }, caption);
    this.box = element("div", { class: "chart" }, ...(title ? [element("h3", {}, title)] : []), this.controls, this.plot, this.note);
    place.append(this.box);
    all.push(this);
  }

  // Drawings of a chart follow one another: the last one stays.
  draw() {
    this.queue = this.queue.then(() => this.embed()).catch((error) => { console.error(error); this.plot.textContent = "This chart could not be drawn."; });
    return this.queue;
  }

  async embed() {
    const made = this.make();
    const spec = JSON.parse(JSON.stringify(data.specs[this.name]));
    const logs = made.logs ?? {};
    const rows = made.rows.map((row) => positive(row, logs, made.rows)).map((row) => ({
      ...row, filling: FILLING[row.queue] ?? 1, ...(RINGED.has(row.frontier) ? { ring_x: row.x, ring_y: row.y } : {}),
    }));
    spec.data = { values: rows };
    // A layer of numbers that nobody has, as of theory, would only be complained of.
    const known = (channel) => !channel?.field || rows.some((row) => typeof row[channel.field] !== "undefined" && row[channel.field] !== null);
    if (rows.length) spec.layer = spec.layer.filter((layer) => known(layer.encoding?.x) && known(layer.encoding?.y));
    // Between labels there is nothing that a band could be of.
    if (made.ordinal) spec.layer = spec.layer.filter((layer) => layer.mark.type !== "area");
    for (const param of spec.params ?? []) if (param.name === "picked") param.value = made.picked ?? [];
    if (made.height) spec.height = made.height;
    // Beside the plot are the numbers of its axis and the menu.
    for (const layer of spec.layer) dress(layer, made, logs, this.plot.clientWidth - 90, spec.height);
    const result = await vegaEmbed(this.plot, spec, {
      renderer: "svg", downloadFileName: "batchcube", tooltip: { theme: "light" },
      actions: { export: true, source: false, compiled: false, editor: false },
    });
    this.view?.finalize();
    this.view = result.view;
    if (this.onPick) this.view.addEventListener("click", (event, item) => { if (item?.datum?.id !== undefined) this.onPick(item.datum.id); });
  }

  async pick(picked) {
    await this.queue;
    await this.view?.signal("picked", picked).runAsync();
  }
}

// A logarithmic axis has no place for 0: such ends go to the least number that is drawn.
function positive(row, logs, rows) {
  const found = { ...row };
  for (const [axis, names] of [["x", ["x", "x_low", "x_high"]], ["y", ["y", "low", "high", "theory"]]]) {
    if (!logs[axis]) continue;
    const least = Math.min(...rows.flatMap((one) => names.map((name) => one[name])).filter((value) => value > 0));
    for (const name of names) {
      if (found[name] === null || found[name] === undefined || found[name] > 0) continue;
      found[name] = name.endsWith("low") ? least : null;
    }
  }
  return found;
}

// Titles are as long as they are: in lines of what a place has room for.
function wrapped(text, pixels) {
  const most = Math.max(12, Math.floor(pixels / 6.8));
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length > most && lines.at(-1)) lines.push(word); else lines[lines.length - 1] = longer;
  }
  return lines;
}

function dress(layer, made, logs, width, height) {
  for (const [channel, encoding] of Object.entries(layer.encoding ?? {})) {
    if ((channel === "x" || channel === "y") && encoding.field) {
      if (made.titles?.[channel] !== undefined) encoding.title = wrapped(made.titles[channel], channel === "x" ? width : height);
      if (channel === "x") encoding.axis = { ...encoding.axis, tickCount: Math.max(3, Math.floor(width / 80)) };
      if (channel === "x" && made.ordinal) {
        encoding.type = "ordinal";
        encoding.sort = null;
        encoding.scale = { domain: made.ordinal };
        encoding.axis = { labelAngle: made.ordinal.join("").length * 8 > width * 0.7 ? -35 : 0, grid: false };
      } else if (logs[channel]) encoding.scale = { ...encoding.scale, ...LOG, zero: undefined };
    }
    if ((channel === "color" || channel === "shape") && encoding.field === "series" && made.domain) {
      encoding.scale = { ...encoding.scale, domain: made.domain };
      if (encoding.scale.range) encoding.scale.range = encoding.scale.range.slice(0, made.domain.length);
      const columns = Math.max(1, Math.floor(width / (40 + 7 * Math.max(1, ...made.domain.map((one) => Math.min(one.length, 30))))));
      const title = made.legend ?? null;
      encoding.legend = made.domain.length > 1 && encoding.legend !== null ? { ...encoding.legend, columns, title } : null;
    }
    if (channel === "tooltip" && Array.isArray(encoding)) {
      layer.encoding.tooltip = encoding.filter((one) => (made.hasQueue || one.field !== "queue") && (made.hasFrontier || one.field !== "frontier")).map((one) => {
        if (one.field === "text" && made.titles?.y && !one.title) return { ...one, title: made.titles.y };
        if (one.field === "x_text" && made.titles?.x) return { ...one, title: made.titles.x };
        if (one.field === "y" && made.titles?.y && !one.title) return { ...one, title: made.titles.y };
        return one;
      });
    }
  }
}

// Values over two powers of ten lie on each other on a plain axis.
function spreads({ numeric, values }) { return numeric && Math.min(...values) > 0 && Math.max(...values) >= 100 * Math.min(...values); }

// Cubes ----------------------------------------------------------------------------------------------------------

class Cube {
  constructor(place, grid) {
    Object.assign(this, { place, grid, picked: [grid.best], file: place.dataset.file, charts: [] });
    this.box = place.querySelector(".charts");
    this.axes = grid.axes.map((axis, index) => ({ ...axis, index })).filter((axis) => axis.labels.length > 1);
    this.shape = grid.axes.map((axis) => axis.labels.length);
    this.count = this.shape.reduce((a, b) => a * b, 1);
    this.places = Array.from({ length: this.count }, (_, point) => this.unravel(point));
    this.fixed = Object.fromEntries(this.axes.map((axis) => [axis.index, this.places[grid.best][axis.index]]));
    if (this.axes.length) this.lines();
    if (grid.trade.length) this.scatter();
    if (grid.courses) this.overTime();
    for (const row of place.querySelectorAll("tr[data-point]")) row.addEventListener("click", () => this.pick(Number(row.dataset.point)));
    this.mark();
  }

  unravel(point) {
    const found = [];
    for (const size of [...this.shape].reverse()) { found.unshift(point % size); point = Math.floor(point / size); }
    return found;
  }

  at(point, but = []) {
    return this.axes.filter((axis) => !but.includes(axis.index)).map((axis) => `${axis.name} = ${axis.labels[this.places[point][axis.index]]}`).join(", ");
  }

  quantity(key) { return this.grid.quantities.find((one) => one.key === key); }

  options() { return this.grid.quantities.map((one) => [one.key, one.title]); }

  pick(point) {
    this.picked = this.picked.includes(point) ? this.picked.filter((one) => one !== point) : [...this.picked, point].slice(-6);
    this.mark();
    for (const chart of this.charts) if (chart.name === "over_time") chart.draw(); else chart.pick(this.picked);
  }

  mark() {
    for (const row of this.place.querySelectorAll("tr[data-point]")) row.classList.toggle("picked", this.picked.includes(Number(row.dataset.point)));
  }

  command(...keys) {
    return this.file ? `batchcube show ${/[^\w@%+=:,./-]/.test(this.file) ? `'${this.file}'` : this.file} ${keys.map((key) => `-v '${key}'`).join(" ")}` : "";
  }

  say(chart, text, ...keys) {
    chart.note.replaceChildren(text);
    const command = this.command(...keys);
    if (command) chart.note.append(" Its numbers: ", element("code", {}, command));
  }

  marks() {
    const states = new Set(this.grid.queue ?? []);
    const said = [];
    if (states.has("overloaded")) said.push("hollow: overloaded, no steady state");
    if (states.has("cannot tell")) said.push("pale: cannot tell whether overloaded");
    return said.length ? ` Markers: ${said.join("; ")}.` : "";
  }

  rings(frontier) {
    if (!frontier) return "";
    const count = (state) => frontier.filter((one) => one === state).length;
    const among = this.grid.axes.some((axis) => axis.is_rate) ? ", among the points of their arrival rate" : "";
    return ` Ringed: surely on the frontier (${count("surely")}${among}); broken ring: possibly (${count("possibly")}).`;
  }

  lines() {
    const numeric = this.axes.filter((axis) => axis.numeric);
    const longest = [...(numeric.length ? numeric : this.axes)].sort((a, b) => b.labels.length - a.labels.length)[0];
    const state = this.state = { y: this.grid.quantities[0].key, x: longest.index, lines: -1, logX: spreads(longest), logY: false };
    const others = this.axes.filter((axis) => axis.index !== state.x);
    if (others.length) state.lines = others.reduce((a, b) => (b.labels.length <= 9 && b.labels.length > a.labels.length) || a.labels.length > 9 ? b : a).index;
    const chart = new Chart(this.box, "lines", () => this.lineRows(chart), { title: "Along an axis", onPick: (point) => this.pick(point), aria: "means over an axis with intervals" });
    this.charts.push(chart);
    const rebuild = () => {
      const free = this.axes.filter((axis) => axis.index !== state.x && axis.index !== state.lines);
      const axisOptions = this.axes.map((axis) => [axis.index, axis.name]);
      chart.controls.replaceChildren(
        choice("quantity", this.options(), state.y, (key) => { state.y = key; chart.draw(); }),
        ...(this.axes.length > 1 ? [
          choice("across", axisOptions, state.x, (index) => { if (Number(index) === state.lines) state.lines = state.x; state.x = Number(index); state.logX = spreads(this.grid.axes[state.x]); rebuild(); }),
          choice("lines", [...axisOptions.filter(([index]) => index !== state.x), [-1, "none"]], state.lines, (index) => { state.lines = Number(index); rebuild(); }),
        ] : []),
        ...free.map((axis) => {
          const set = (place) => { this.fixed[axis.index] = Number(place); chart.draw(); };
          if (axis.numeric && axis.labels.length > 4) return slider(axis.name, axis.labels, this.fixed[axis.index], set);
          return choice(axis.name, axis.labels.map((label, place) => [place, label]), this.fixed[axis.index], set);
        }),
        ...(this.grid.axes[state.x].numeric && this.grid.axes[state.x].values.every((value) => value > 0) ? [check("log across", state.logX, (on) => { state.logX = on; chart.draw(); })] : []),
        check("log up", state.logY, (on) => { state.logY = on; chart.draw(); }),
      );
      if (!this.grid.axes[state.x].numeric || this.grid.axes[state.x].values.some((value) => value <= 0)) state.logX = false;
      chart.draw();
    };
    rebuild();
  }

  lineRows(chart) {
    const { y, x, lines, logX, logY } = this.state;
    const quantity = this.quantity(y), across = this.grid.axes[x], along = lines < 0 ? null : this.grid.axes[lines];
    const free = this.axes.filter((axis) => axis.index !== x && axis.index !== lines);
    const rows = [];
    for (let point = 0; point < this.count; point += 1) {
      const places = this.places[point];
      if (free.some((axis) => places[axis.index] !== this.fixed[axis.index])) continue;
      rows.push({
        id: point, x: across.values[places[x]], y: quantity.mean[point], low: quantity.low[point], high: quantity.high[point],
        theory: quantity.theory?.[point] ?? null, series: along ? along.labels[places[lines]] : "mean",
        at: this.at(point), text: quantity.text[point], queue: this.grid.queue?.[point],
      });
    }
    const theory = quantity.theory ? " Dashed: theory." : "";
    const interval = quantity.low.some((value) => value !== null) ? ` ${across.numeric ? "Bands and bars" : "Bars"}: 95 % intervals over replications.` : " There is one replication, or nothing is random: no interval.";
    const about = [across, ...(along ? [along] : [])].filter((axis) => axis.definition && !axis.title.startsWith(axis.definition));
    const axes = about.map((axis) => ` ${axis.name} (${axis.path}): ${axis.definition}.`).join("");
    this.say(chart, `Means.${interval}${theory}${this.marks()}${axes} Click markers to pick points, here, below and in the table.`, y);
    return {
      rows, picked: this.picked, hasQueue: Boolean(this.grid.queue), logs: { x: logX, y: logY }, ordinal: across.numeric ? null : across.labels,
      titles: { x: across.title, y: quantity.title }, domain: [...new Set(rows.map((row) => row.series))], legend: along?.numeric ? along.name : null,
    };
  }

  // What each point is on the frontier of two quantities, in either order; none where it is not known.
  frontier(x, y) { return this.grid.frontiers.find(({ of }) => of.includes(x) && of.includes(y) && x !== y)?.states; }

  scatter() {
    const [x, y] = this.grid.trade;
    const state = { x, y, logX: false, logY: false, colour: this.axes.reduce((a, b) => (a.labels.length <= b.labels.length ? a : b)).index };
    const chart = new Chart(this.box, "scatter", () => {
      const across = this.quantity(state.x), up = this.quantity(state.y), axis = this.grid.axes[state.colour];
      const frontier = this.frontier(state.x, state.y);
      const rows = this.places.map((places, point) => ({
        id: point, x: across.mean[point], x_low: across.low[point], x_high: across.high[point], y: up.mean[point], low: up.low[point], high: up.high[point],
        series: axis.labels[places[state.colour]], at: this.at(point), x_text: across.text[point], text: up.text[point],
        queue: this.grid.queue?.[point], frontier: frontier?.[point],
      }));
      this.say(chart, `Every point${up.low.some((value) => value !== null) ? ", with its 95 % intervals" : ""}.${this.marks()}${this.rings(frontier)} Click to pick.`, state.x, state.y);
      return {
        rows, picked: this.picked, hasQueue: Boolean(this.grid.queue), hasFrontier: Boolean(frontier), logs: { x: state.logX, y: state.logY },
        titles: { x: across.title, y: up.title }, domain: axis.labels, legend: axis.numeric ? axis.name : null,
      };
    }, { title: "One against another", onPick: (point) => this.pick(point), aria: "one mean against another, a marker for each point" });
    const set = (name) => (value) => { state[name] = name === "colour" ? Number(value) : value; chart.draw(); };
    chart.controls.append(
      choice("across", this.options(), state.x, set("x")), choice("up", this.options(), state.y, set("y")),
      ...(this.axes.length > 1 ? [choice("colour", this.axes.map((axis) => [axis.index, axis.name]), state.colour, set("colour"))] : []),
      check("log across", false, set("logX")), check("log up", false, set("logY")),
    );
    this.charts.push(chart);
    chart.draw();
  }

  overTime() {
    const { time_s: time, quantities } = this.grid.courses;
    const state = { key: quantities[0].key, log: false };
    const chart = new Chart(this.box, "over_time", () => {
      const quantity = quantities.find((one) => one.key === state.key);
      const named = this.picked.map((point) => this.at(point) || "mean");
      const rows = this.picked.flatMap((point, k) => time[point].map((x, window) => ({
        x, y: quantity.mean[point][window], low: quantity.low[point][window], high: quantity.high[point][window], series: named[k],
      })));
      const one = this.picked.length === 1 ? named[0] : "";
      const chosen = one ? `of ${one}` : this.picked.length ? "of the points that are picked" : "of no point: pick some above";
      this.say(chart, `Means over replications in windows of time, ${chosen}, with 95 % intervals.`, state.key);
      return { rows, logs: { y: state.log }, titles: { y: quantity.title }, domain: named };
    }, { title: "Over time", aria: "means over time of the points that are picked" });
    chart.controls.append(
      choice("quantity", quantities.map((one) => [one.key, one.title]), state.key, (key) => { state.key = key; chart.draw(); }),
      check("log up", false, (on) => { state.log = on; chart.draw(); }),
    );
    if (this.axes.length) chart.controls.append(element("button", { type: "button", onclick: () => { for (const point of [...this.picked]) this.pick(point); this.pick(this.grid.best); } }, "only the best point"));
    this.charts.push(chart);
    chart.draw();
  }
}

// Comparisons --------------------------------------------------------------------------------------------------------

function comparedRow(row) {
  const verdict = element("span", { class: `verdict v-${row.verdict.replaceAll(" ", "-")}` }, row.verdict);
  const line = [verdict, element("span", { class: "what" }, row.what), element("span", { class: "numbers" }, row.numbers)];
  if (!row.story) return element("div", { class: "row" }, ...line);
  const told = row.story.flatMap(([label, text]) => [element("dt", {}, label), element("dd", {}, text)]);
  for (const [label, command] of [["its numbers", row.command], ["in a terminal", `batchcube why ${row.name}`]]) {
    if (command) told.push(element("dt", {}, label), element("dd", {}, element("code", {}, command)));
  }
  return element("details", { class: "row", id: row.name }, element("summary", {}, ...line), element("dl", {}, ...told));
}

function comparedRows({ name, counts, groups }) {
  const inside = groups.flatMap(({ verdict, open, rows }) => {
    const made = rows.map(comparedRow);
    return open ? made : [element("details", { class: "group" }, element("summary", {}, `${rows.length} ${verdict}`), ...made)];
  });
  return element("details", { class: "experiment", open: groups.some((group) => group.open) }, element("summary", {}, element("b", {}, name), `: ${counts}`), ...inside);
}

// Tables -----------------------------------------------------------------------------------------------------------

function table({ title, columns, rows, words, below, points }) {
  const cells = (tag, row) => row.map((text, k) => element(tag, { class: k < words ? "word" : false }, text));
  const body = rows.map((row, point) => element("tr", { "data-point": points && String(point) }, ...cells("td", row)));
  const whole = element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", columns))), element("tbody", {}, ...body));
  return element("details", { class: "table" }, element("summary", {}, title), element("div", { class: "scroll" }, whole), ...(below ? [element("p", { class: "small" }, below)] : []));
}

// Charts of given rows ---------------------------------------------------------------------------------------------

function plainChart(place, plain) {
  const rows = plain.rows.map((row) => Object.fromEntries(plain.columns.map((name, k) => [name, row[k]])));
  const values = plain.choose ? [...new Set(rows.map((row) => row[plain.choose]))] : [];
  const state = { value: values[0], logX: false, logY: false };
  const chart = new Chart(place, plain.spec, () => {
    const shown = rows.filter((row) => !plain.choose || row[plain.choose] === state.value);
    const domain = plain.spec === "claims" ? null : [...new Set(shown.map((row) => row.series))];
    return { rows: shown, logs: { x: state.logX, y: state.logY }, titles: plain.titles, domain, height: plain.spec === "claims" ? 70 + 16 * shown.length : null };
  }, { title: plain.title, caption: plain.caption });
  if (values.length > 1) chart.controls.append(choice(plain.choose, values.map((one) => [one, one]), state.value, (value) => { state.value = value; chart.draw(); }));
  if (plain.log && plain.spec !== "fitted") {
    chart.controls.append(check("log across", false, (on) => { state.logX = on; chart.draw(); }));
    if (plain.spec !== "shares") chart.controls.append(check("log up", false, (on) => { state.logY = on; chart.draw(); }));
  }
  chart.draw();
}

// The page -----------------------------------------------------------------------------------------------------------

data.sections.forEach((section, index) => {
  const place = document.getElementById(`s${index}`);
  place.querySelector(".tables").append(...section.tables.map(table));
  if (section.grid) new Cube(place, section.grid);
  for (const plain of section.plain ?? []) plainChart(place.querySelector(".charts"), plain);
});
document.getElementById("experiments")?.append(...data.experiments.map(comparedRows));
if (data.comparison) plainChart(document.getElementById("claims"), data.comparison);

// On paper nothing opens any more: what differs or cannot be told is told whole, and tables that are short.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")].filter((one) => one.matches(".experiment, .row:has(.v-no), .row:has(.v-cannot-tell)")
    || (one.matches(".table") && one.querySelectorAll("tr").length <= 60));
  for (const one of closed) one.open = true;
});
window.addEventListener("afterprint", () => { for (const one of closed) one.open = false; });

// What an address names is there only now.
const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
for (let one = named; one; one = one.parentElement) if (one.matches("details")) one.open = true;
named?.scrollIntoView();

// For whoever waits until everything is drawn.
window.drawn = Promise.all(all.map((chart) => chart.queue)).then(() => { document.body.dataset.drawn = "yes"; return all.length; });
window.charts = all;
