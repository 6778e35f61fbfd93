// The state as JSON and as a Python call, the picture as SVG and PNG.
const LOOK = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-weight", "font-family", "text-anchor"];

// What `orderscale_jax.explorer.evaluate` takes: only what differs from the model as it is. `checkpoint`: where
// the model is loaded from, null if it is shipped and known by its name.
function toEvaluate(state, checkpoint) {
  const parts = checkpoint === null ? { model: state.model } : {};
  if (state.step !== null) parts.step = state.step;
  parts.list = state.list;
  for (const [key, value] of Object.entries(UNTOUCHED)) if (!same(state[key], value)) parts[key] = state[key];
  return parts;
}

// `saeCheckpoint`: where its autoencoder is loaded from, if it is not shipped.
function toPython(state, checkpoint, saeCheckpoint) {
  const literal = (value) => {
    if (value === null) return "None";
    if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
    if (typeof value === "object") return `{${Object.entries(value).map(([k, v]) => `${literal(k)}: ${literal(v)}`).join(", ")}}`;
    return JSON.stringify(value);
  };
  const lines = Object.entries(toEvaluate(state, checkpoint)).map(([key, value]) => `    "${key}": ${literal(value)},`);
  const isOwn = checkpoint !== null;
  const hasSae = isOwn && state.latents !== null;
  const load = isOwn ? ["from orderscale_jax import load_checkpoint"] : [];
  const loadSae = hasSae ? ["from orderscale_jax.sae import load_sae"] : [];
  const set = isOwn ? [`model, _ = load_checkpoint(${literal(checkpoint)})`] : [];
  if (hasSae) set.push(`sae, _ = load_sae(${literal(saeCheckpoint)})`);
  if (set.length) set.push("");
  const call = `evaluate(${["state", ...(isOwn ? ["model"] : []), ...(hasSae ? ["sae=sae"] : [])].join(", ")})`;
  return [...load, "from orderscale_jax.explorer import evaluate", ...loadSae, "", ...set, "state = {", ...lines, "}",
    `logits = ${call}  # [1, 2, V]`, "print(logits.argmax(-1))", ""].join("\n");
}

// Every part of a state that is not as the model has it, in words.
function inWords(state) {
  const weights = (value) => (Array.isArray(value) ? value.join(", ") : SOURCES[value]);
  const parts = [state.model, `list ${state.list.join(", ")}`];
  if (state.step !== null) parts.push(`step ${number(state.step)} of its training`);
  if (state.cuts.length) parts.push(`cut (${state.mode}): ${state.cuts.join(", ").replaceAll("<-", "←")}`);
  if (state.digit_weights !== null) parts.push(`digits in SEP: ${weights(state.digit_weights)}`);
  if (state.position_weights !== null) parts.push(`positions in SEP: ${weights(state.position_weights)}`);
  for (const [row, value] of Object.entries(state.patterns)) parts.push(`${row}: ${value.join(", ")}`);
  if (state.latents !== null) parts.push(`the autoencoder's reconstruction for SEP: ${scalesInWords(state.latents) || "as it is"}`);
  return parts;
}

// A picture that stands alone: the flow with its looks written into it, the map with its legend, and the state.
function pictureOf(el, view, colours) {
  const { state, outcomes, counts, validation } = view;
  const [, , width, height] = el.flow.getAttribute("viewBox").split(" ").map(Number);
  const copy = el.flow.cloneNode(true);
  const originals = el.flow.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((node, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of LOOK) node.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex", "role", "aria-label", "aria-pressed", "data-edge", "data-node"]) node.removeAttribute(name);
  });
  copy.querySelectorAll("title").forEach((title) => title.remove());
  const side = height - 90; // of the map
  const [left, top] = [width + 40, 40];
  const caption = [summary(view), ...inWords(state), toAddress(state)];
  const size = { width: left + side + 24, height: height + 28 + 17 * caption.length };
  const whole = svgElement("svg", { xmlns: SVG, viewBox: `0 0 ${size.width} ${size.height}`, width: 2 * size.width, height: 2 * size.height });
  const look = { fill: colours.ink, "font-family": "sans-serif", "font-size": 12 };
  const flow = svgElement("g", { transform: "translate(12 12)" });
  flow.append(...copy.childNodes);
  const image = { x: left, y: top, width: side, height: side, href: el.map.toDataURL("image/png"), style: "image-rendering: pixelated" };
  const [x, y] = [1, 0].map((i) => ((state.list[i] + 0.5) * side) / view.model.N);
  whole.append(
    svgElement("rect", { width: "100%", height: "100%", fill: colours.surface }),
    flow,
    svgElement("text", { ...look, x: left, y: top - 10 }, "all lists: d1 down, d2 across"),
    svgElement("image", image),
    svgElement("circle", { cx: left + x, cy: top + y, r: 6, fill: "none", stroke: colours.ink, "stroke-width": 2 }),
    svgElement("text", { ...look, x: left, y: top + side + 50 }, validation ? "pale: not of the validation set" : ""),
  );
  OUTCOMES.forEach((name, i) => {
    const at = { x: left + (i % 2) * 120, y: top + side + 8 + 17 * (i >> 1) };
    whole.append(
      svgElement("rect", { ...at, width: 11, height: 11, fill: colours.outcomes[i] }),
      svgElement("text", { ...look, x: at.x + 16, y: at.y + 10 }, `${name} ${percent(counts.all[i] / outcomes.length)}`),
    );
  });
  caption.forEach((line, i) => whole.append(svgElement("text", { ...look, x: 12, y: height + 34 + 17 * i }, line)));
  return new XMLSerializer().serializeToString(whole);
}

async function toPng(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

function download(name, href) {
  const link = document.createElement("a");
  [link.download, link.href] = [name, href];
  link.click();
}
const asData = (kind, text) => `data:${kind};charset=utf-8,${encodeURIComponent(text)}`;
