// The information-flow graph: five edges, drawn as wide as their attention, each a button that cuts it.
// Shares one scope with explorer.js, which holds the state and what changes it.
const NAMES = ["d1", "d2", "SEP", "o1", "o2"];
const column = (position) => 68 + 74 * position;
const ROW_Y = [46, 194, 342];
const NODE = { width: 52, height: 32 };
// Where an edge starts and ends: [position, layer, offset from the node's middle].
const EDGE_VIEWS = [
  { edge: "L0 SEP<-d1", from: [0, 0, 0], to: [2, 1, -10], at: 0.27, symbol: "α₁", weight: (r) => r.alpha[0], kind: "d1" },
  { edge: "L0 SEP<-d2", from: [1, 0, 0], to: [2, 1, 10], at: 0.5, symbol: "α₂", weight: (r) => r.alpha[1], kind: "d2" },
  { edge: "L1 o1<-SEP", from: [2, 1, -10], to: [3, 2, 0], at: 0.74, symbol: "", weight: (r) => r.gamma, kind: "read" },
  { edge: "L1 o2<-SEP", from: [2, 1, 10], to: [4, 2, -11], at: 0.45, symbol: "βₛ", weight: (r) => r.beta[0], kind: "read" },
  { edge: "L1 o2<-o1", from: [3, 1, 0], to: [4, 2, 11], at: 0.18, symbol: "βₒ", weight: (r) => r.beta[1], kind: "read" },
];
const LIVE_NODES = ["0 0", "1 0", "2 0", "3 0", "4 0", "2 1", "3 1", "4 1", "3 2", "4 2"]; // position, layer

function edgeSentence(view, weight, isCut) {
  const [layer, query, key] = view.edge.match(/L(\d) (\w+)<-(\w+)/).slice(1);
  const what = `Layer ${layer}: ${query} reads ${key}`;
  return isCut ? `${what}, cut. Press to restore.` : `${what} with weight ${weightText(weight)}. Press to cut.`;
}

function drawGraphOnce() {
  const parts = [];
  NAMES.forEach((name, position) => {
    parts.push(`<text class="osx-head" x="${column(position)}" y="18">${name}</text>`);
    parts.push(`<path class="osx-residual" d="M${column(position)} ${ROW_Y[0]}V${ROW_Y[2]}"/>`);
  });
  [["input"], ["after", "layer 0"], ["after", "layer 1"]].forEach((lines, layer) => {
    const top = ROW_Y[layer] + 4 - 7 * (lines.length - 1);
    lines.forEach((line, i) => parts.push(`<text class="osx-row" x="0" y="${top + 14 * i}">${line}</text>`));
  });
  for (const view of EDGE_VIEWS) {
    parts.push(
      `<g class="osx-edge osx-${view.kind}" data-edge="${view.edge.replace("<", "&lt;")}" role="button" tabindex="0">` +
        `<title></title><path class="osx-hit"/><path class="osx-line"/><path class="osx-tip"/>` +
        `<rect class="osx-pill" height="22" rx="11"/><text class="osx-weight"></text></g>`,
    );
  }
  NAMES.forEach((_, position) => {
    ROW_Y.forEach((y, layer) => {
      const x = column(position);
      if (!LIVE_NODES.includes(`${position} ${layer}`)) {
        parts.push(`<circle class="osx-dead" cx="${x}" cy="${y}" r="3"/>`);
        return;
      }
      const box = `x="${x - NODE.width / 2}" y="${y - NODE.height / 2}" width="${NODE.width}" height="${NODE.height}"`;
      parts.push(
        `<g class="osx-node" data-node="${position} ${layer}"><rect ${box} rx="9"/>` +
          (position === 2 && layer === 1 ? `<path class="osx-share-d1"/><path class="osx-share-d2"/>` : "") +
          `<text x="${x}" y="${y + 5}"></text></g>`,
      );
    });
  });
  for (const [i, position] of [3, 4].entries()) {
    parts.push(`<text class="osx-verdict" data-verdict="${i}" x="${column(position)}" y="378"></text>`);
  }
  el.flow.innerHTML = parts.join("");
  for (const group of el.flow.querySelectorAll(".osx-edge")) {
    const toggle = () => {
      const edge = group.dataset.edge;
      const cuts = state.cuts.includes(edge) ? state.cuts.filter((x) => x !== edge) : [...state.cuts, edge];
      change({ cuts });
    };
    group.addEventListener("click", toggle);
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
}

function drawEdge(view, result) {
  const group = el.flow.querySelector(`[data-edge="${view.edge}"]`);
  const isCut = state.cuts.includes(view.edge);
  const weight = view.weight(result);
  const [x1, y1] = [column(view.from[0]) + view.from[2], ROW_Y[view.from[1]] + NODE.height / 2];
  const [x2, y2] = [column(view.to[0]) + view.to[2], ROW_Y[view.to[1]] - NODE.height / 2];
  const length = Math.hypot(x2 - x1, y2 - y1);
  const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
  const width = isCut ? 1.5 : 1 + 9 * Math.min(weight, 1);
  const tip = 8 + width / 2;
  const half = 3.5 + width / 2;
  const [bx, by] = [x2 - tip * dx, y2 - tip * dy];
  const label = isCut ? `${view.symbol} ✕ cut` : `${view.symbol} ${weightText(weight)}`;
  const [lx, ly] = [x1 + view.at * (x2 - x1), y1 + view.at * (y2 - y1)];
  const pill = view.symbol ? 64 : 48;
  group.classList.toggle("osx-cut", isCut);
  group.setAttribute("aria-pressed", String(isCut));
  group.setAttribute("aria-label", edgeSentence(view, weight, isCut));
  group.querySelector("title").textContent = edgeSentence(view, weight, isCut);
  group.querySelector(".osx-hit").setAttribute("d", `M${x1} ${y1}L${x2} ${y2}`);
  const line = group.querySelector(".osx-line");
  line.setAttribute("d", `M${x1} ${y1}L${bx} ${by}`);
  line.style.strokeWidth = width;
  group
    .querySelector(".osx-tip")
    .setAttribute("d", `M${x2} ${y2}L${bx - half * dy} ${by + half * dx}L${bx + half * dy} ${by - half * dx}Z`);
  const rect = group.querySelector(".osx-pill");
  rect.setAttribute("x", lx - pill / 2);
  rect.setAttribute("y", ly - 11);
  rect.setAttribute("width", pill);
  const text = group.querySelector(".osx-weight");
  text.setAttribute("x", lx);
  text.setAttribute("y", ly + 4.5);
  text.textContent = label.trim();
}

function drawNodes(result) {
  const set = (node, text, className) => {
    const group = el.flow.querySelector(`[data-node="${node}"]`);
    group.setAttribute("class", `osx-node ${className}`);
    group.querySelector("text").textContent = text;
  };
  set("0 0", state.digits[0], "osx-d1");
  set("1 0", state.digits[1], "osx-d2");
  set("2 0", "SEP", "");
  set("2 1", "SEP", "osx-sep");
  for (const node of ["3 0", "4 0", "3 1", "4 1"]) set(node, "MASK", "osx-empty");
  // SEP's lower edge shows how much of each digit it holds; the full width is a weight of 1.
  const [left, bottom] = [column(2) - 21, ROW_Y[1] + 13];
  const split = left + 42 * Math.min(result.alpha[0], 1);
  const end = Math.min(split + 42 * result.alpha[1], left + 42);
  const sep = el.flow.querySelector('[data-node="2 1"]');
  sep.querySelector("text").setAttribute("y", ROW_Y[1] + 2);
  sep.querySelector(".osx-share-d1").setAttribute("d", `M${left} ${bottom}H${split}v-7H${left}Z`);
  sep.querySelector(".osx-share-d2").setAttribute("d", `M${split} ${bottom}H${end}v-7H${split}Z`);
  result.predictions.forEach((token, i) => {
    set(`${3 + i} 2`, tokenName(token), `osx-said ${roleClass(token)}`);
    const verdict = el.flow.querySelector(`[data-verdict="${i}"]`);
    const isRight = token === state.digits[i];
    verdict.textContent = isRight ? "✓ right" : "✗ wrong";
    verdict.setAttribute("class", `osx-verdict ${isRight ? "" : "osx-wrong"}`);
  });
}
