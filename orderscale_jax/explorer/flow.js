// The information-flow graph: every edge that can matter, as wide as its attention, each a button that cuts it.
const COLUMNS = [68, 126, 184, 242, 300];
const FLOW_WIDTH = 328;
const NODE = { width: 46, height: 30 };
const GAP = { 2: 142, 3: 122 }; // between rows, by the number of layers
const TOP = 44;
// Where on its way an edge carries its weight (from 0 to 1), so that no two meet; by layer counted from the end.
const LABELS = {
  2: { "0 SEP d1": 0.26, "0 SEP d2": 0.62, "1 o1 SEP": 0.83, "1 o2 SEP": 0.47, "1 o2 o1": 0.13 },
  3: {
    "0 d1 d1": 0.8, "0 d2 d1": 0.25, "0 SEP d1": 0.66, "0 SEP d2": 0.28, "1 SEP d1": 0.22, "1 SEP d2": 0.62,
    "1 o1 SEP": 0.84, "1 o2 SEP": 0.47, "1 o2 o1": 0.13, "2 o1 SEP": 0.84, "2 o2 SEP": 0.47, "2 o2 o1": 0.13,
  },
};
const SYMBOLS = { "L0 SEP<-d1": "α₁", "L0 SEP<-d2": "α₂", "L1 o2<-SEP": "βₛ", "L1 o2<-o1": "βₒ" }; // of two layers
const rowTop = (layers, layer) => TOP + GAP[layers] * layer;
const edgeKind = ({ key }) => ["d1", "d2"][key] ?? "read";

function makeFlow(svg, toggle) {
  let drawnFor = null;
  let edgeViews = [];
  let nodes = {};
  let verdicts = [];

  // The frame for a model of so many layers; what changes is filled in by `draw`.
  function build(model) {
    const L = model.L;
    const height = rowTop(L, L) + NODE.height / 2 + 24;
    svg.setAttribute("viewBox", `0 0 ${FLOW_WIDTH} ${height}`);
    svg.replaceChildren();
    POSITIONS.forEach((name, position) => {
      svg.append(svgElement("text", { class: "osx-head", x: COLUMNS[position], y: 18 }, name));
      const line = `M${COLUMNS[position]} ${TOP}V${rowTop(L, L)}`;
      svg.append(svgElement("path", { class: "osx-residual", d: line }));
    });
    for (let layer = 0; layer <= L; layer++) {
      const lines = layer ? ["after", `L${layer - 1}`] : ["input"];
      lines.forEach((text, i) => {
        const y = rowTop(L, layer) + 4 - 8 * (lines.length - 1) + 16 * i;
        svg.append(svgElement("text", { class: "osx-row", x: 0, y }, text));
      });
    }
    const alive = new Set(POSITIONS.map((_, position) => `${position} 0`));
    const edges = model.edges.map(parseEdge);
    for (const { layer, query, key } of edges) {
      alive.add(`${key} ${layer}`);
      alive.add(`${query} ${layer + 1}`);
    }
    for (const output of [3, 4]) for (let layer = 0; layer <= L; layer++) alive.add(`${output} ${layer}`);
    edgeViews = edges.map((edge) => buildEdge(edge, edges, L));
    nodes = {};
    for (let layer = 0; layer <= L; layer++) {
      POSITIONS.forEach((_, position) => {
        const [x, y] = [COLUMNS[position], rowTop(L, layer)];
        if (!alive.has(`${position} ${layer}`)) {
          svg.append(svgElement("circle", { class: "osx-dead", cx: x, cy: y, r: 3 }));
          return;
        }
        const group = svgElement("g", { class: "osx-node", "data-node": `${position} ${layer}` });
        const box = { x: x - NODE.width / 2, y: y - NODE.height / 2, width: NODE.width, height: NODE.height, rx: 8 };
        const text = svgElement("text", { x, y: y + 5 });
        const shares = [svgElement("path", { class: "osx-share-d1" }), svgElement("path", { class: "osx-share-d2" })];
        group.append(svgElement("rect", box), ...(position === 2 && layer ? shares : []), text);
        svg.append(group);
        nodes[`${position} ${layer}`] = { group, text, shares };
      });
    }
    verdicts = [3, 4].map((position) => {
      const text = svgElement("text", { class: "osx-verdict", x: COLUMNS[position], y: height - 6 });
      svg.append(text);
      return text;
    });
    drawnFor = L;
  }

  function buildEdge(edge, edges, L) {
    const group = svgElement("g", {
      class: `osx-edge osx-${edgeKind(edge)}`, "data-edge": edge.label, role: "button", tabindex: "0",
    });
    const parts = {
      title: svgElement("title"),
      hit: svgElement("path", { class: "osx-hit" }),
      line: svgElement("path", { class: "osx-line" }),
      tip: svgElement("path", { class: "osx-tip" }),
      pill: svgElement("rect", { class: "osx-pill", height: 22, rx: 11 }),
      text: svgElement("text", { class: "osx-weight" }),
    };
    group.append(...Object.values(parts));
    svg.append(group);
    group.addEventListener("click", () => toggle(edge.label));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle(edge.label);
    });
    // Edges that meet in a node arrive and leave side by side.
    const beside = (end) => {
      const sharing = edges.filter((x) => x.layer === edge.layer && x[end] === edge[end] && x.query !== x.key);
      const at = sharing.findIndex((x) => x.label === edge.label);
      return at < 0 ? -15 : 18 * (at - (sharing.length - 1) / 2);
    };
    const from = [COLUMNS[edge.key] + (edge.query === edge.key ? -15 : beside("key") * 0.6), rowTop(L, edge.layer) + NODE.height / 2];
    const to = [COLUMNS[edge.query] + beside("query"), rowTop(L, edge.layer + 1) - NODE.height / 2];
    const place = LABELS[L][`${edge.layer} ${POSITIONS[edge.query]} ${POSITIONS[edge.key]}`];
    const symbol = L === 2 ? (SYMBOLS[edge.label] ?? "") : "";
    return { edge, group, parts, from, to, place, symbol };
  }

  function edgeSentence({ edge }, weights, isCut) {
    const what = `Layer ${edge.layer}: ${POSITIONS[edge.query]} reads ${POSITIONS[edge.key]}`;
    if (isCut) return `${what}, cut. Press to restore.`;
    const [digit, position] = weights.map(weightText);
    const how = digit === position ? `with weight ${digit}` : `its digit with weight ${digit}, its position with ${position}`;
    return `${what} ${how}. Press to cut.`;
  }

  // `weights`: of the digit's and of the position's vector, which are mostly the same.
  function drawEdge(view, weights, isCut, isSet) {
    const { group, parts, symbol } = view;
    const [[x1, y1], [x2, y2]] = [view.from, view.to];
    const length = Math.hypot(x2 - x1, y2 - y1);
    const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
    const width = isCut ? 1.5 : 1 + 8 * Math.min(weights[0], 1);
    const [tip, half] = [8 + width / 2, 3.5 + width / 2];
    const [bx, by] = [x2 - tip * dx, y2 - tip * dy];
    const [digit, position] = weights.map((weight) => weight.toFixed(2));
    const isSplit = !isCut && digit !== position;
    const aside = isSplit ? [-38, 38][view.edge.key] : 0; // long labels leave the other edge free
    const [lx, ly] = [x1 + view.place * (x2 - x1) + aside, y1 + view.place * (y2 - y1)];
    let label = symbol ? `${symbol} ${weightText(weights[0])}` : digit;
    if (isSplit) label = `E ${digit} P ${position}`;
    if (isCut) label = "✕ cut";
    const pill = isSplit ? 112 : symbol ? 62 : 42;
    group.classList.toggle("osx-cut", isCut);
    group.classList.toggle("osx-set", isSet && !isCut);
    group.setAttribute("aria-pressed", String(isCut));
    group.setAttribute("aria-label", edgeSentence(view, weights, isCut));
    parts.title.textContent = edgeSentence(view, weights, isCut);
    parts.hit.setAttribute("d", `M${x1} ${y1}L${x2} ${y2}`);
    parts.line.setAttribute("d", `M${x1} ${y1}L${bx} ${by}`);
    parts.line.style.strokeWidth = width;
    parts.tip.setAttribute("d", `M${x2} ${y2}L${bx - half * dy} ${by + half * dx}L${bx + half * dy} ${by - half * dx}Z`);
    parts.pill.setAttribute("x", lx - pill / 2);
    parts.pill.setAttribute("y", ly - 11);
    parts.pill.setAttribute("width", pill);
    parts.text.setAttribute("x", lx);
    parts.text.setAttribute("y", ly + 4.5);
    parts.text.textContent = label;
  }

  // SEP's lower edge: how much it holds of each digit's vector and, where that differs, of each position's;
  // the full width is a scale of 1, or their sum.
  function drawShares(node, y, digits, positions) {
    const [left, full] = [COLUMNS[2] - 19, 38];
    const bar = ([first, second], bottom, height) => {
      const scale = full / Math.max(1, first + second);
      const [split, end] = [left + scale * first, left + scale * (first + second)];
      return [`M${left} ${bottom}H${split}v${-height}H${left}Z`, `M${split} ${bottom}H${end}v${-height}H${split}Z`];
    };
    const isSplit = digits.some((x, i) => Math.abs(x - positions[i]) > 1e-9);
    const bars = isSplit ? [bar(digits, y + 8, 4), bar(positions, y + 13, 4)] : [bar(digits, y + 12, 6)];
    node.text.setAttribute("y", isSplit ? y - 1 : y + 1);
    node.shares.forEach((share, i) => share.setAttribute("d", bars.map((of) => of[i]).join("")));
  }

  function draw({ model, state, result }) {
    if (drawnFor !== model.L) build(model);
    const isSetInSep = state.digit_weights !== null || state.position_weights !== null;
    for (const view of edgeViews) {
      const { label, layer, query, key } = view.edge;
      const row = `L${layer} ${POSITIONS[query]}`;
      const weight = result.weights[label];
      const weights = [weight, row === IN_SEP ? result.places[key] : weight];
      drawEdge(view, weights, state.cuts.includes(label), row === IN_SEP ? isSetInSep : row in state.patterns);
    }
    for (const [key, node] of Object.entries(nodes)) {
      const [position, layer] = key.split(" ").map(Number);
      const residual = result.residuals[layer][position];
      let [text, kind] = [POSITIONS[position], ""];
      if (position < 2) [text, kind] = [String(state.list[position]), `osx-d${position + 1}`];
      else if (position === 2 && layer) {
        drawShares(node, rowTop(model.L, layer), [residual[D1], residual[D2]], [residual[P1], residual[P2]]);
        if (residual[R] !== 0) text = "SAE";
      } else if (position > 2) {
        const hasRead = layer === model.L || residual[S] !== 0 || residual[D1] !== 0 || residual[D2] !== 0;
        const token = layer === model.L ? result.predictions[position - 3] : result.lens[layer - 1]?.[position - 3];
        [text, kind] = hasRead ? [tokenName(model, token), roleClass(state, token)] : ["MASK", "osx-empty"];
      }
      node.group.setAttribute("class", `osx-node ${kind}`);
      node.text.textContent = text;
    }
    result.predictions.forEach((token, i) => {
      const isRight = token === state.list[i];
      verdicts[i].textContent = isRight ? "right" : "wrong";
      verdicts[i].setAttribute("class", `osx-verdict ${isRight ? "" : "osx-wrong"}`);
    });
  }

  return { draw };
}
