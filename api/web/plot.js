// Plots as inline SVG: numbers in, elements out. Names go in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function canvas(width, height, label) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

/** Round numbers that span low to high: at most six. */
export function ticks(low, high) {
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((each) => each * unit >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
}

const short = (number) => String(Number(number.toPrecision(6)));

/** Predicted against true, both axes alike, with the line of equality. */
export function scatter(points, unit, label) {
  const size = 300, left = 46, bottom = 40, top = 8, right = 10;
  const values = points.flatMap((point) => [point.true, point.predicted]);
  let low = values.reduce((a, b) => Math.min(a, b), Infinity);
  let high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const margin = (high - low) * 0.04 || 1;
  low -= margin;
  high += margin;
  const x = (value) => left + ((value - low) / (high - low)) * (size - left - right);
  const y = (value) => size - bottom - ((value - low) / (high - low)) * (size - bottom - top);
  const svg = canvas(size, size, label);
  for (const value of ticks(low, high)) {
    svg.append(
      draw("line", { class: "grid", x1: x(value), x2: x(value), y1: y(low), y2: y(high) }),
      draw("line", { class: "grid", x1: x(low), x2: x(high), y1: y(value), y2: y(value) }),
      draw("text", { class: "middle", x: x(value), y: size - bottom + 15 }, short(value)),
      draw("text", { class: "end", x: left - 6, y: y(value) + 4 }, short(value)),
    );
  }
  svg.append(
    draw("line", { class: "equal", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }),
    draw("line", { class: "axis", x1: x(low), x2: x(high), y1: y(low), y2: y(low) }),
    draw("line", { class: "axis", x1: x(low), x2: x(low), y1: y(low), y2: y(high) }),
    draw("text", { class: "middle", x: (x(low) + x(high)) / 2, y: size - 6 }, `true ${unit}`),
    draw("text", { class: "middle", transform: `translate(11 ${(y(low) + y(high)) / 2}) rotate(-90)` }, "predicted"),
  );
  for (const point of points) {
    const dot = draw("circle", { class: "point", cx: x(point.true), cy: y(point.predicted), r: 3 });
    const told = `${point.id}: true ${short(point.true)}, predicted ${short(point.predicted)}`;
    dot.append(draw("title", {}, told));
    svg.append(dot);
  }
  return svg;
}

/** Counts of true class (rows) against predicted class (columns). */
export function confusion(points, classes, label) {
  const size = 300, left = 80, bottom = 46;
  const cell = (size - left) / classes.length;
  const svg = canvas(size, cell * classes.length + bottom, label);
  const cut = (name) => (name.length > 10 ? `${name.slice(0, 9)}…` : name);
  classes.forEach((truth, row) => {
    const own = points.filter((point) => point.true === truth);
    svg.append(draw("text", { class: "end", x: left - 6, y: (row + 0.5) * cell + 4 }, cut(truth)));
    classes.forEach((guess, column) => {
      const count = own.filter((point) => point.predicted === guess).length;
      const share = own.length ? count / own.length : 0;
      const at = { x: left + column * cell, y: row * cell };
      const middle = { x: at.x + cell / 2, y: at.y + cell / 2 + 4 };
      const square = draw("rect", {
        class: "cell", ...at, width: cell - 2, height: cell - 2, "fill-opacity": 0.08 + 0.92 * share,
      });
      square.append(draw("title", {}, `true ${truth}, predicted ${guess}: ${count}`));
      svg.append(square);
      if (classes.length <= 8) {
        const shade = share > 0.5 ? "count on-cell" : "count";
        svg.append(draw("text", { class: shade, ...middle }, String(count)));
      }
    });
  });
  classes.forEach((guess, column) => {
    const x = left + (column + 0.5) * cell;
    svg.append(draw("text", { class: "middle", x, y: cell * classes.length + 14 }, cut(guess)));
  });
  const middle = left + (size - left) / 2;
  svg.append(draw("text", { class: "middle", x: middle, y: cell * classes.length + 36 }, "predicted class"));
  return svg;
}

/** A score with its interval on a scale that all rows of a table share. */
export function range(score, interval, low, high, label) {
  const width = 160, height = 20, margin = 5;
  const x = (value) => margin + ((value - low) / (high - low)) * (width - 2 * margin);
  const svg = canvas(width, height, label);
  svg.classList.add("range");
  svg.append(draw("line", { class: "grid", x1: x(low), x2: x(high), y1: 10, y2: 10 }));
  svg.append(draw("line", { class: "axis", x1: x(0), x2: x(0), y1: 4, y2: 16 }));
  if (interval) {
    const [from, to] = interval;
    svg.append(draw("line", { class: "interval", x1: x(from), x2: x(to), y1: 10, y2: 10 }));
  }
  svg.append(draw("circle", { class: "score", cx: x(score), cy: 10, r: 4 }));
  return svg;
}
